// Many streams on one HTTP/2 connection: node http2.mjs ORIGIN CA PATH COUNT
//
// Writes what each stream gets, a JSON string a line, after the stream's number.
// On SIGUSR2 all streams are cancelled (RST_STREAM), and the connection stays.
import { readFileSync } from "node:fs";
import { connect, constants } from "node:http2";

const [origin, ca, path, count] = process.argv.slice(2);
const session = connect(origin, { ca: readFileSync(ca) });
const say = (...words) => process.stdout.write(`${words.join(" ")}\n`);
session.on("close", () => say("connection closed"));
session.on("goaway", (code) => say("goaway", code));
session.on("remoteSettings", (settings) => say("allowed", settings.maxConcurrentStreams));

const streams = Array.from({ length: Number(count) }, (_, number) => {
  const stream = session.request({ ":path": path, accept: "text/event-stream" });
  stream.setEncoding("utf8");
  stream.on("response", (headers) => say(number, "status", headers[":status"]));
  stream.on("data", (text) => say(number, JSON.stringify(text)));
  stream.on("error", (error) => say(number, "error", error.code));
  stream.on("end", () => say(number, "end"));
  return stream;
});

process.on("SIGUSR2", () => {
  for (const stream of streams) stream.close(constants.NGHTTP2_CANCEL);
});
