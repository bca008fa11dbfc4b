import asyncio
import os

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from task import FACTS, MODEL, QUESTION, RESULT, Person, calculate, done

llm = OpenAILike(
    model=MODEL,
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key="none",
    is_chat_model=True,
    is_function_calling_model=True,
    context_window=4096,
    max_tokens=300,
)


def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression."""
    return calculate(expression)


tool = FunctionTool.from_defaults(calculator)
reply = llm.chat_with_tools([tool], user_msg=QUESTION)
done("`chat_with_tools`", llm.get_tool_calls_from_response(reply)[0].tool_name == "calculator")
found = llm.structured_predict(
    Person, __import__("llama_index.core", fromlist=["PromptTemplate"]).PromptTemplate(FACTS)
)
done("`structured_predict`", found == Person(name="Anna", age=31))


async def ask() -> str:
    return str(await FunctionAgent(tools=[tool], llm=llm, system_prompt="You are helpful.").run(user_msg=QUESTION))


done("`FunctionAgent`", RESULT in asyncio.run(ask()))
