from twisted.application.service import ServiceMaker

pushd = ServiceMaker(
    "pushd",
    "pushd.service",
    "Polls HTTP APIs and streams what changed as Server-Sent Events.",
    "pushd",
)
