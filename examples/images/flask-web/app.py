"""Counts page views in Redis and says which pod answered."""

import os
import signal
import socket
import sys

import redis
from flask import Flask

app = Flask(__name__)
# Not REDIS_PORT: Kubernetes sets that to tcp://… for a Service named redis.
counter = redis.Redis(host=os.environ.get("COUNTER_HOST", "redis"), socket_timeout=5)


@app.route("/")
def index():
    return f"[{socket.gethostname()}] Redis counter value={counter.incr('views')}\n"


@app.route("/version")
def version():
    return os.environ["VERSION"] + "\n"


@app.route("/healthz")
def healthz():
    return "ok\n"


# A first process gets no default signal handlers; without this one the pod
# would be killed only after its whole grace period.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

if __name__ == "__main__":
    app.run(host="0.0.0.0", port=5000, threaded=True)
