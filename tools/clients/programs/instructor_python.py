import instructor
from openai import OpenAI
from task import FACTS, MODEL, Person, done

messages = [{"role": "user", "content": FACTS}]
for mode in (
    instructor.Mode.TOOLS,
    instructor.Mode.TOOLS_STRICT,
    instructor.Mode.JSON,
    instructor.Mode.JSON_SCHEMA,
    instructor.Mode.MD_JSON,
    instructor.Mode.RESPONSES_TOOLS,
):
    client = instructor.from_openai(OpenAI(), mode=mode)
    limit = {"max_output_tokens" if "RESPONSES" in mode.name else "max_tokens": 200}
    person = client.chat.completions.create(
        model=MODEL, messages=messages, response_model=Person, max_retries=0, **limit
    )
    # what it says is the model's: a forced call of a tool that octavo-tiny does not know may say anything that fits
    done(f"a response model by {mode.name}", isinstance(person, Person))
client = instructor.from_openai(OpenAI(), mode=instructor.Mode.TOOLS)
partial = list(
    client.chat.completions.create_partial(model=MODEL, messages=messages, response_model=Person, max_tokens=200)
)
done("partial models from a stream", partial[-1].age is not None and len(partial) > 1)
