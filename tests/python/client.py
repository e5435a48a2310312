"""A client as a Python user would write it, with the `websockets` library and nothing of ours.

    client.py URL TOKEN header|subprotocol|query [SYMBOL...]

Connects, takes the welcome, subscribes to the symbols on EGX, and prints each message that it receives, one JSON object a
line, until it has the answer, one snapshot of each accepted symbol and three live updates; then closes. Exit 0 if the
connection was closed cleanly.
"""

import asyncio
import json
import sys

import websockets


async def main(url: str, token: str, credential: str, symbols: list[str]) -> int:
    protocols, headers = ["tradsys.v3.json"], {}
    if credential == "header":
        headers["Authorization"] = f"Bearer {token}"
    elif credential == "subprotocol":
        protocols.append(f"bearer.{token}")
    else:
        url += f"?token={token}"
    try:
        socket = await websockets.connect(url, subprotocols=protocols, additional_headers=headers, proxy=None)
    except websockets.exceptions.InvalidStatus as refused:
        print(json.dumps({"status": refused.response.status_code, "body": json.loads(refused.response.body)}))
        return 0
    async with socket:
        print(json.dumps({"subprotocol": socket.subprotocol}))
        await socket.send(
            json.dumps(
                {"type": "subscribe", "id": 7, "channel": "market_data", "exchange": "EGX", "symbols": symbols}
            )
        )
        expected, live = None, 0
        while expected is None or expected or live < 3:
            event = json.loads(await socket.recv())
            print(json.dumps(event))
            if event["type"] == "subscribed":
                expected = {accepted["symbol"] for accepted in event["accepted"]}
                live = 0 if expected else 3
            elif event["type"] == "market_data_update":
                if event["snapshot"]:
                    expected.discard(event["symbol"])
                else:
                    live += 1
    print(json.dumps({"closed": socket.close_code}))
    return 0


if __name__ == "__main__":
    arguments = sys.argv[1:]
    deadline = asyncio.wait_for(main(arguments[0], arguments[1], arguments[2], arguments[3:]), timeout=30)
    sys.exit(asyncio.run(deadline))
