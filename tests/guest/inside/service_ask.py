"""One request to the supervisor, and its answer: service_ask.py '{"verb": "units"}'. Only what Python has."""

import json
import socket
import sys

with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(60)
    client.connect("/run/holdfast/service.sock")
    client.sendall(sys.argv[1].encode() + b"\n")
    with client.makefile("rb") as answers:
        print(json.dumps(json.loads(answers.readline())))
