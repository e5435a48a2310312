// A client as a Node user would write it, with the `ws` library and nothing of ours.
//
//   client.mjs URL TOKEN header|subprotocol|query [SYMBOL...]
//
// Connects, takes the welcome, subscribes to the symbols on EGX, and prints each message that it receives, one JSON
// object a line, until it has the answer, one snapshot of each accepted symbol and three live updates; then closes.

import WebSocket from "ws";

const [base, token, credential, ...symbols] = process.argv.slice(2);
const protocols = ["tradsys.v3.json"];
const headers = {};
let url = base;
if (credential === "header") headers.Authorization = `Bearer ${token}`;
else if (credential === "subprotocol") protocols.push(`bearer.${token}`);
else url += `?token=${token}`;

const say = (object) => console.log(JSON.stringify(object));
const deadline = setTimeout(() => {
  console.error("no end within 30 s");
  process.exit(1);
}, 30_000);

const socket = new WebSocket(url, protocols, { headers });
let expected;
let live = 0;

socket.on("open", () => {
  say({ subprotocol: socket.protocol });
  socket.send(
    JSON.stringify({ type: "subscribe", id: 7, channel: "market_data", exchange: "EGX", symbols }),
  );
});
socket.on("message", (data) => {
  const event = JSON.parse(data);
  if (socket.readyState !== WebSocket.OPEN) return;
  say(event);
  if (event.type === "subscribed") {
    expected = new Set(event.accepted.map((accepted) => accepted.symbol));
    live = expected.size === 0 ? 3 : 0;
  } else if (event.type === "market_data_update") {
    if (event.snapshot) expected.delete(event.symbol);
    else live += 1;
  }
  if (expected !== undefined && expected.size === 0 && live >= 3) socket.close(1000);
});
socket.on("unexpected-response", (_request, response) => {
  let body = "";
  response.on("data", (chunk) => (body += chunk));
  response.on("end", () => {
    say({ status: response.statusCode, body: JSON.parse(body) });
    clearTimeout(deadline);
  });
});
socket.on("close", (code) => {
  say({ closed: code });
  clearTimeout(deadline);
});
socket.on("error", (error) => {
  console.error(error);
  process.exit(1);
});
