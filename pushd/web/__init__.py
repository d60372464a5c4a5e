"""HTTP: Klein resources, one file a noun. They ask and answer; they decide nothing."""
