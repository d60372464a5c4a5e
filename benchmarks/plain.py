"""A plain event stream with Twisted: ``plain.py PORT resource|klein|klein-resource``."""

from __future__ import annotations

import sys

from klein import Klein
from twisted.internet import endpoints, reactor
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

requests = set()


def subscribe(request):
    requests.add(request)
    request.notifyFinish().addErrback(lambda _: requests.discard(request))
    request.setHeader("Content-Type", "text/event-stream")
    request.setHeader("Cache-Control", "no-cache")
    request.write(b": hi\n\n")


def publish(request):
    event = b"data: " + request.content.read() + b"\n\n"
    for subscriber in requests:
        subscriber.write(event)
    request.setResponseCode(201)
    return b""


class Stream(Resource):
    isLeaf = True

    def render_GET(self, request):
        subscribe(request)
        return NOT_DONE_YET

    def render_POST(self, request):
        return publish(request)


class Routes:
    app = Klein()

    @app.route("/", methods=["GET"])
    def read(self, request):
        subscribe(request)
        return Deferred()

    @app.route("/", methods=["POST"])
    def write(self, request):
        return publish(request)


class ResourceRoutes:
    app = Klein()

    @app.route("/", methods=["GET", "POST"])
    def stream(self, request):
        return Stream()


def main():
    port, kind = sys.argv[1:]
    if kind == "resource":
        resource = Stream()
    else:
        resource = (Routes() if kind == "klein" else ResourceRoutes()).app.resource()
    endpoint = endpoints.TCP4ServerEndpoint(reactor, int(port), 4096, "127.0.0.1")
    endpoint.listen(Site(resource))
    reactor.run()


if __name__ == "__main__":
    main()
