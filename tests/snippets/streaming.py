import asyncio

from octavo import AsyncEngineArgs, AsyncLLM, SamplingParams
from octavo.sampling_params import RequestOutputKind


async def stream_response(engine, prompt, request_id):
    params = SamplingParams(
        max_tokens=12, temperature=0.8, seed=42, ignore_eos=True, output_kind=RequestOutputKind.DELTA
    )
    pieces = []
    async for output in engine.generate(request_id=request_id, prompt=prompt, sampling_params=params):
        for completion in output.outputs:
            pieces.append(completion.text)
        if output.finished:
            break
    return "".join(pieces)


async def main():
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model="octavo-tiny", enforce_eager=True))
    try:
        texts = await asyncio.gather(*(stream_response(engine, "one two three", f"request-{i}") for i in range(3)))
        print(len(set(texts)), bool(texts[0]))
    finally:
        engine.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
