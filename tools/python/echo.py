#!/usr/bin/env python3
"""An echo server: echo.py [HOST:PORT]. LIBOS and CONFIG_PATH say what carries it; by default kernel sockets."""

import sys

import demikernel


def main():
    host, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0").rsplit(":", 1)
    libos = demikernel.LibOS()
    listener = libos.socket()
    at = listener.bind((host, int(port)))
    listener.listen()
    print("listening on {}:{}".format(*at), flush=True)
    # One token for each queue: the listener's, and a pop of each connection.
    queues, tokens = [listener], [listener.accept()]
    while True:
        place, came = libos.wait_any(tokens)
        if queues[place] is listener:
            tokens[place] = listener.accept()
            if not isinstance(came, OSError):
                connection, _ = came
                queues.append(connection)
                tokens.append(connection.pop())
        elif isinstance(came, bytes) and came and echoed(queues[place], came):
            tokens[place] = queues[place].pop()
        else:  # the end of the stream, or a failure
            queues.pop(place).close()
            tokens.pop(place)


def echoed(queue, data):
    try:
        queue.push(data).wait()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
