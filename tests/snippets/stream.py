import asyncio

from octavo import AsyncEngineArgs, AsyncLLM, SamplingParams
from octavo.sampling_params import RequestOutputKind


async def stream(engine: AsyncLLM, prompt: str, request_id: str) -> str:
    params = SamplingParams(temperature=0, max_tokens=16, output_kind=RequestOutputKind.DELTA)
    text = ""
    async for output in engine.generate(request_id=request_id, prompt=prompt, sampling_params=params):
        for completion in output.outputs:
            text += completion.text
        if output.finished:
            break
    return text


async def main() -> None:
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model="octavo-tiny", enforce_eager=True))
    try:
        prompts = ["12 + 30 =", "Sort 3 1 2:", "Hello, my name is"]
        texts = await asyncio.gather(*(stream(engine, prompt, f"stream-{prompt}") for prompt in prompts))
        for prompt, text in zip(prompts, texts):
            print(f"Prompt: {prompt!r}, Generated text: {text!r}")
    finally:
        engine.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
