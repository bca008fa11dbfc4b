import os

from anthropic import Anthropic
from task import CALCULATOR, MODEL, QUESTION, RESULT, calculate, done

client = Anthropic(base_url=os.environ["OPENAI_BASE_URL"].removesuffix("/v1"), api_key="none")
function = CALCULATOR["function"]
tools = [{"name": function["name"], "description": function["description"], "input_schema": function["parameters"]}]
messages = [{"role": "user", "content": QUESTION}]

count = client.messages.count_tokens(model=MODEL, messages=messages, tools=tools)
done("`count_tokens`", count.input_tokens > 10)
message = client.messages.create(model=MODEL, max_tokens=200, messages=messages, tools=tools)
(use,) = [block for block in message.content if block.type == "tool_use"]
done("a tool use", message.stop_reason == "tool_use" and use.name == "calculator")
result = {"type": "tool_result", "tool_use_id": use.id, "content": calculate(**use.input)}
history = [*messages, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
answer = client.messages.create(model=MODEL, max_tokens=200, messages=history, tools=tools)
done("the answer to its result", RESULT in answer.content[-1].text)
with client.messages.stream(
    model=MODEL, max_tokens=100, messages=[{"role": "user", "content": "What is 2 + 3?"}]
) as stream:
    text = "".join(stream.text_stream)
done("`messages.stream`", "5" in text)
