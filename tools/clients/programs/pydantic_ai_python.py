import asyncio

from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from task import FACTS, MODEL, QUESTION, RESULT, Person, calculate, done

for kind in (OpenAIChatModel, OpenAIResponsesModel):
    agent = Agent(kind(MODEL))

    @agent.tool_plain
    def calculator(expression: str) -> str:
        """Evaluate an arithmetic expression."""
        return calculate(expression)

    done(f"an agent with a tool by {kind.__name__}", RESULT in agent.run_sync(QUESTION).output)

for output in (ToolOutput, NativeOutput):
    found = Agent(OpenAIChatModel(MODEL), output_type=output(Person)).run_sync(FACTS).output
    done(f"an output type by {output.__name__}", found == Person(name="Anna", age=31))


async def streamed() -> str:
    async with Agent(OpenAIChatModel(MODEL)).run_stream("What is 2 + 3?") as run:
        return "".join([piece async for piece in run.stream_text(delta=True)])


done("a stream", "5" in asyncio.run(streamed()))
