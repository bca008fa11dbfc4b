// What every client is asked to do, and how it tells that it was done, as in task.py.
export const { MODEL, OPENAI_BASE_URL: BASE_URL } = process.env;
export const QUESTION = "What is 23 * 4? Use the calculator.";
export const RESULT = "92";
export const FACTS = "Answer as JSON with the keys name, age: Anna is 31 years old.";
export const CALCULATOR = {
  type: "function",
  function: {
    name: "calculator",
    description: "Evaluate an arithmetic expression.",
    parameters: { type: "object", properties: { expression: { type: "string" } }, required: ["expression"] },
  },
};

export function calculate(expression) {
  const [left, right] = expression.replace(/[x×]/, "*").split("*");
  return String(Number(left) * Number(right));
}

export function done(what, holds) {
  if (!holds) throw new Error(`failed: ${what}`);
  console.log(`done: ${what}`);
}
