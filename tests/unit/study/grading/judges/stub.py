"""A judge behind an OpenAI-compatible API: prefers the longer output, wherever it stands."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: What stands before, between and behind the two outputs in the prompts of the three styles.
FRAMES = [
    ("## Output (a):\n", "\n\n## Output (b):\n", "\n\n## Which is best"),
    (
        '"model_identifier": "m",\n        "output": """',
        '"""\n    },\n    {\n        "model_identifier": "M",\n        "output": """',
        '"""\n    }\n}\n\n## Task',
    ),
    (
        '"model": "model_1",\n        "answer": """',
        '"""\n    },\n    {\n        "model": "model_2",\n        "answer": """',
        '"""\n    }\n]\n\nNow please rank',
    ),
]


def preferred(prompt):
    """1 or 2: the place of the longer output, of equally long ones of the later in the alphabet."""
    for before, between, behind in FRAMES:
        if before in prompt and between in prompt:
            middle = prompt.rindex(between)
            one = prompt[prompt.rindex(before, 0, middle) + len(before) : middle]
            two = prompt[middle + len(between) : prompt.rindex(behind)]
            return 1 if (len(one), one) > (len(two), two) else 2
    raise AssertionError(f"the prompt shows no two outputs: {prompt}")


def message(body, place):
    """An answer in the style that the request asks for, and its log-probabilities."""
    if body.get("tools"):
        function = body["tools"][0]["function"]["name"]
        arguments = json.dumps({"best_output": f"Output ({'ab'[place - 1]})"})
        call = {"name": function, "arguments": arguments}
        return {"tool_calls": [{"id": "1", "type": "function", "function": call}]}, None
    if body.get("logprobs"):
        best, other = "mM"[place - 1], "Mm"[place - 1]
        # e^-0.25 / (e^-0.25 + e^-1.5), about 0.78 for the better one.
        top = [{"token": best, "logprob": -0.25}, {"token": other, "logprob": -1.5}]
        return {"content": best}, {"content": [{**top[0], "top_logprobs": top}]}
    ranks = [{"model": f"model_{place}", "rank": 1}, {"model": f"model_{3 - place}", "rank": 2}]
    return {"content": repr(ranks)}, None


class Judge:
    """The server. `faults` are answered first, one for each request: a status, or a word.

    `garbage` is a body that is no JSON, `empty` a completion without text, `chatter` one that
    says something else, `nothing` a connection that closes without an answer.
    """

    def __init__(self):
        self.bodies = []
        self.keys = set()
        self.faults = []
        self.fault_of = None
        self.most_at_a_time = 0
        self._now = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def requests(self):
        """Number of requests per instruction."""
        return Counter(instruction(body) for body in self.bodies)

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _handler(judge):  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with judge._lock:
                    judge._now += 1
                    judge.most_at_a_time = max(judge.most_at_a_time, judge._now)
                    judge.bodies.append(body)
                    judge.keys.add(self.headers["Authorization"])
                    fault = judge.faults.pop(0) if judge.faults else None
                    if judge.fault_of:
                        fault = fault or judge.fault_of(instruction(body))
                self.answer(body, fault)
                with judge._lock:
                    judge._now -= 1

            def answer(self, body, fault):
                if fault == "nothing":
                    self.close_connection = True
                elif fault == "garbage":
                    self.send(200, b"<html>502</html>")
                elif isinstance(fault, int):
                    words = "Rate limit reached" if fault == 429 else "The judge is out of order"
                    self.send(fault, json.dumps({"error": {"message": words}}).encode())
                else:
                    content, odds = message(body, preferred(text(body)))
                    if fault in ("empty", "chatter"):
                        content, odds = {"content": fault.replace("empty", "")}, None
                    self.send(200, json.dumps(completion(body, content, odds)).encode())

            def send(self, status, content):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(content)

        return Handler


def text(body):
    return body["messages"][-1]["content"]


def instruction(body):
    """The instruction in a request of any of the three styles."""
    prompt = text(body)
    for start, end in [
        ("# Task:", "## Output (a):"),
        ('"instruction": """', '""",\n}'),
    ]:
        if start in prompt:
            rest = prompt[prompt.index(start) + len(start) :]
            return rest[: rest.index(end)].split("## Instruction:\n")[-1].strip()
    raise AssertionError(f"the prompt shows no instruction: {prompt}")


def completion(body, content, odds):
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": None, **content},
        "logprobs": odds,
        "finish_reason": "stop",
    }
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [choice],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
