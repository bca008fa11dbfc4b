import json
import os

import litellm
from task import CALCULATOR, FACTS, MODEL, QUESTION, Person, done

messages = [{"role": "user", "content": QUESTION}]
where = {"api_base": os.environ["OPENAI_BASE_URL"], "api_key": "none"}

for provider in ("hosted_vllm", "openai"):
    reply = litellm.completion(model=f"{provider}/{MODEL}", messages=messages, tools=[CALCULATOR], **where)
    done(f"a tool call by {provider}", reply.choices[0].message.tool_calls[0].function.name == "calculator")
chunks = list(
    litellm.completion(model=f"hosted_vllm/{MODEL}", messages=messages, tools=[CALCULATOR], stream=True, **where)
)
whole = litellm.stream_chunk_builder(chunks, messages=messages)
done("`stream_chunk_builder`", json.loads(whole.choices[0].message.tool_calls[0].function.arguments)["expression"])
reply = litellm.completion(
    model=f"openai/{MODEL}",
    messages=[{"role": "user", "content": FACTS}],
    response_format=Person,
    max_tokens=200,
    **where,
)
done("`response_format`", Person.model_validate_json(reply.choices[0].message.content).name == "Anna")
reply = litellm.responses(model=f"openai/{MODEL}", input="What is 2 + 3?", **where)
done("`litellm.responses`", "5" in reply.output[-1].content[0].text)
