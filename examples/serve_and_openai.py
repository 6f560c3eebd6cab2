"""Serve the model and ask it with OpenAI's own client: pip install 'pocketvlm[serve]' openai, then
python examples/serve_and_openai.py

The server is also a command: `pocketvlm serve build/demo`. Any client that speaks to OpenAI speaks
to it, by its address.
"""

import base64
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing

from demo_folder import EXAMPLES, demo_folder

try:
    from openai import OpenAI
except ImportError:
    sys.exit("this example needs OpenAI's client: pip install openai")

with closing(socket.socket()) as free:  # a port that nobody uses
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
command = [sys.executable, "-m", "pocketvlm", "serve", str(demo_folder()), "--port", str(port)]
server = subprocess.Popen(command)
try:
    for _ in range(600):  # until it has loaded
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            break
        except OSError:
            if server.poll() is not None:
                sys.exit("the server did not start; the line above says why")
            time.sleep(0.1)
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    model = client.models.list().data[0].id

    # Pictures go along as data: URIs. What OpenAI does not have, such as the budget of visual
    # tokens, is an extra key.
    picture = base64.b64encode((EXAMPLES / "scene-2.png").read_bytes()).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}
    text = {"type": "text", "text": "Describe the picture."}
    asked = {"model": model, "messages": [{"role": "user", "content": [image, text]}]}
    answer = client.chat.completions.create(**asked, extra_body={"budget": 36})
    print(answer.choices[0].message.content)

    # The same, as it comes.
    for chunk in client.chat.completions.create(**asked, stream=True):
        print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="", flush=True)
    print()
finally:
    server.terminate()
    server.wait()
