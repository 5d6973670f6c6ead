"""Reading that takes much longer than anybody waits in silence, against `longtake serve`: BASE_URL VIDEO QUESTION ANSWER.

Between OpenAI's client, which gives a reply up after 20 s without a byte and may not try again, and the server stands a proxy that cuts
connections after 15 s without one. Two ask at once, one for a stream and one for a whole answer, and both are answered; a third, who
wants to hear nothing before the answer, is cut off, which shows that the proxy does what it is for.
"""
import asyncio
import sys
import threading
import time
from urllib.parse import urlsplit

from openai import APIConnectionError, OpenAI

CUT_AFTER, TIMEOUT, LEAST = 15, 20, 30

base, path, question, answer = sys.argv[1:]
server = urlsplit(base)
n_cut = 0


async def pass_on(reader, writer, moved):
    while piece := await reader.read(1 << 16):
        moved[0] = time.monotonic()
        writer.write(piece)
        await writer.drain()


async def proxied(reader, writer):
    global n_cut
    to_server, from_server = None, None
    try:
        from_server, to_server = await asyncio.open_connection(server.hostname, server.port)
        moved = [time.monotonic()]
        both = [asyncio.create_task(pass_on(reader, to_server, moved)), asyncio.create_task(pass_on(from_server, writer, moved))]
        while not any(task.done() for task in both):
            await asyncio.wait(both, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            if time.monotonic() - moved[0] > CUT_AFTER:
                n_cut += 1
                break
        for task in both:
            task.cancel()
    finally:
        writer.close()
        if to_server:
            to_server.close()


listening = threading.Event()


async def listen():
    global port
    proxy = await asyncio.start_server(proxied, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    listening.set()
    await proxy.serve_forever()


threading.Thread(target=lambda: asyncio.run(listen()), daemon=True).start()
listening.wait()
client = OpenAI(base_url=f"http://127.0.0.1:{port}{server.path}", api_key="none", timeout=TIMEOUT, max_retries=0)
with open(path, "rb") as file:
    upload = client.files.create(file=file, purpose="vision")
content = [{"type": "file", "file": {"file_id": upload.id}}, {"type": "text", "text": question}]
messages = [{"role": "user", "content": content}]
said, took = {}, {}


def ask(way):
    began = time.monotonic()
    if way == "streamed":
        chunks = client.chat.completions.create(model="", messages=messages, stream=True)
        said[way] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    elif way == "in silence":
        try:
            client.chat.completions.create(model="", messages=messages, extra_body={"longtake": {"keep_alive": False}})
        except APIConnectionError as err:
            said[way] = type(err)
    else:
        said[way] = client.chat.completions.create(model="", messages=messages).choices[0].message.content
    took[way] = time.monotonic() - began


threads = [threading.Thread(target=ask, args=(way,)) for way in ["streamed", "whole", "in silence"]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert said.pop("in silence", None) is APIConnectionError and n_cut, (said, n_cut)
assert said == {"streamed": answer, "whole": answer}, said
assert min(took["streamed"], took["whole"]) > LEAST, f"{took}: too quick to tell; draw a longer video"
print(f"patience: good, after {took['streamed']:.0f} and {took['whole']:.0f} s of reading behind a proxy that waits {CUT_AFTER}")
