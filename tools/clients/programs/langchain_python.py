from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.prebuilt import create_react_agent
from task import FACTS, MODEL, QUESTION, RESULT, Person, calculate, done

model = ChatOpenAI(model=MODEL, max_tokens=300)


@tool
def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression."""
    return calculate(expression)


bound = model.bind_tools([calculator])
asked = bound.invoke(QUESTION)
done("`bind_tools`", asked.tool_calls[0]["name"] == "calculator")
told = ToolMessage(calculator.invoke(asked.tool_calls[0]["args"]), tool_call_id=asked.tool_calls[0]["id"])
done("the answer to its result", RESULT in bound.invoke([HumanMessage(QUESTION), asked, told]).content)
whole = None
for chunk in bound.stream(QUESTION):
    whole = chunk if whole is None else whole + chunk
done("a streamed call", whole.tool_calls[0]["args"]["expression"])
for method in ("json_schema", "function_calling", "json_mode"):
    found = model.with_structured_output(Person, method=method).invoke(FACTS)
    done(f"`with_structured_output` by {method}", found == Person(name="Anna", age=31))
agent = create_react_agent(model, [calculator])
done("a ReAct agent", RESULT in agent.invoke({"messages": [("user", QUESTION)]})["messages"][-1].content)
responses = ChatOpenAI(model=MODEL, use_responses_api=True)
done("`use_responses_api`", responses.bind_tools([calculator]).invoke(QUESTION).tool_calls)
