import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { CALCULATOR, FACTS, MODEL, QUESTION, RESULT, calculate, done } from "./task.mjs";

const client = new OpenAI();
const messages = [{ role: "user", content: QUESTION }];
const reply = await client.chat.completions.create({ model: MODEL, messages, tools: [CALCULATOR] });
done("a tool call", reply.choices[0].message.tool_calls[0].function.name === "calculator");

const runner = client.chat.completions.runTools({
  model: MODEL,
  messages,
  tools: [{ type: "function", function: { ...CALCULATOR.function, parse: JSON.parse, function: ({ expression }) => calculate(expression) } }],
});
done("`runTools`", (await runner.finalContent()).includes(RESULT));

const stream = client.chat.completions.stream({ model: MODEL, messages, tools: [CALCULATOR] });
done("a streamed call", (await stream.finalChatCompletion()).choices[0].message.tool_calls.length === 1);

const Person = z.object({ name: z.string(), age: z.number().int() });
const parsed = await client.chat.completions.parse({
  model: MODEL,
  messages: [{ role: "user", content: FACTS }],
  response_format: zodResponseFormat(Person, "person"),
  max_tokens: 200,
});
done("`.parse`", parsed.choices[0].message.parsed.name === "Anna");

const response = await client.responses.create({ model: MODEL, input: "What is 2 + 3?", store: false });
done("`responses.create`", response.output_text.includes("5"));
