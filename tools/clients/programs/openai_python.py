from openai import OpenAI
from task import CALCULATOR, FACTS, MODEL, QUESTION, RESULT, Person, calculate, done

client = OpenAI()
messages = [{"role": "user", "content": QUESTION}]

message = client.chat.completions.create(model=MODEL, messages=messages, tools=[CALCULATOR]).choices[0].message
call = message.tool_calls[0]
done("a tool call", call.function.name == "calculator")
result = calculate(**__import__("json").loads(call.function.arguments))
history = [*messages, message, {"role": "tool", "tool_call_id": call.id, "content": result}]
answer = client.chat.completions.create(model=MODEL, messages=history, tools=[CALCULATOR]).choices[0].message
done("the answer to its result", RESULT in answer.content)

with client.chat.completions.stream(model=MODEL, messages=messages, tools=[CALCULATOR]) as stream:
    kinds = {event.type for event in stream}
    final = stream.get_final_completion()
done(
    "the stream helper's events", "tool_calls.function.arguments.delta" in kinds and final.choices[0].message.tool_calls
)

parsed = client.chat.completions.parse(
    model=MODEL, messages=[{"role": "user", "content": FACTS}], response_format=Person, max_tokens=200
)
done("`.parse`", parsed.choices[0].message.parsed == Person(name="Anna", age=31))

response = client.responses.create(
    model=MODEL,
    input=QUESTION,
    tools=[{"type": "function", "strict": False, **CALCULATOR["function"]}],
    store=False,
)
done("`responses.create` with a tool", any(item.type == "function_call" for item in response.output))
with client.responses.stream(model=MODEL, input="What is 2 + 3?", store=False) as stream:
    text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
done("`responses.stream`", "5" in text)
response = client.responses.parse(model=MODEL, input=FACTS, text_format=Person, max_output_tokens=200, store=False)
done("`responses.parse`", response.output_parsed == Person(name="Anna", age=31))
