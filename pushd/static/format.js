/** How numbers are written on the page: in English, as the page is. */

const MINUTE = 60;
const HOUR = 3600;

const price = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 1,204.50 */
export function formatPrice(value) {
  return price.format(value);
}

/** +1.20 %, with a real minus sign, which is as wide as the plus. */
export function formatChange(percent) {
  const sign = percent > 0 ? "+" : percent < 0 ? "\u2212" : "";
  return `${sign}${price.format(Math.abs(percent))}\u202f%`;
}

/** 1,204,500 */
export function formatCount(value) {
  return whole.format(value);
}

/** 17 B, 1.2 kB, 3.45 MB: in powers of ten. */
export function formatBytes(bytes) {
  if (bytes < 1000) {
    return `${whole.format(bytes)} B`;
  }
  if (bytes < 1_000_000) {
    return `${(bytes / 1000).toFixed(1)} kB`;
  }
  return `${(bytes / 1_000_000).toFixed(2)} MB`;
}

/** 7 s, 2 min 05 s, 1 h 02 min */
export function formatDuration(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  if (seconds < MINUTE) {
    return `${seconds} s`;
  }
  if (seconds < HOUR) {
    return `${Math.floor(seconds / MINUTE)} min ${two(seconds % MINUTE)} s`;
  }
  return `${Math.floor(seconds / HOUR)} h ${two((seconds % HOUR) / MINUTE)} min`;
}

/** The time of day of an RFC 3339 time, where the reader is. */
export function formatTime(rfc3339) {
  return new Date(rfc3339).toLocaleTimeString("en-GB");
}
