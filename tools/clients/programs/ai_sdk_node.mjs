import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { BASE_URL, FACTS, MODEL, QUESTION, RESULT, calculate, done } from "./task.mjs";

const openai = createOpenAI({ baseURL: BASE_URL, apiKey: "none" });
const compatible = createOpenAICompatible({ name: "octavo", baseURL: BASE_URL, supportsStructuredOutputs: true });
const calculator = tool({
  description: "Evaluate an arithmetic expression.",
  inputSchema: z.object({ expression: z.string() }),
  execute: async ({ expression }) => calculate(expression),
});
const Person = z.object({ name: z.string(), age: z.number().int() });

done("`openai(model)`, its default", (await generateText({ model: openai(MODEL), prompt: "What is 2 + 3?" })).text.includes("5"));
for (const [name, model] of [["`openai(model)`", openai(MODEL)], ["`openai.chat`", openai.chat(MODEL)], ["openai-compatible", compatible(MODEL)]]) {
  const { object } = await generateObject({ model, schema: Person, prompt: FACTS, maxOutputTokens: 200 });
  done(`\`generateObject\` by ${name}`, object.name === "Anna" && object.age === 31);
  const options = { model, prompt: QUESTION, tools: { calculator }, stopWhen: stepCountIs(3), providerOptions: { openai: { store: false } } };
  done(`tools in steps by ${name}`, (await generateText(options)).text.includes(RESULT));
  let text = "";
  for await (const part of streamText(options).textStream) text += part;
  done(`\`streamText\` by ${name}`, text.includes(RESULT));
}
