"""What fits beside the shared part of a prompt, by the tokenizer of the engine itself."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.embedded.engine import LlamaEngine
from inference.errors import EngineMisconfigured
from inference.judgement import Passage
from inference.openai import OpenAiEngine
from inference.relevance import relevant
from inference.room import Room, chosen
from inference.text import one_line
from tests.inference.conftest import Connect, ScriptedEngine, covers

LINE = 4  # tokens that a neighbour takes beside its own
DENSE = "\U0001f98a\U0001f9ed\u2603\u4e16\u754c" * 12

words = st.one_of(
    st.sampled_from(
        ["a", "word", "understandable", "x" * 70, "\U0001f600" * 9, "\u4e2d\u6587" * 20, "end.", "\n", "<|im_end|>"]
    ),
    st.text(max_size=8),
)
texts = st.lists(words, min_size=1, max_size=80).map(" ".join)
own_scripted = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def size(engine: OpenAiEngine, text: str) -> int:
    """Tokens of the text as a prompt has it; bytes where the engine does not tell."""
    line = one_line(text)
    tokens = await engine.tokenize(line)
    return len(line.encode()) if tokens is None else len(tokens)


async def measured(engine: OpenAiEngine, shared: str = "Judge.\n\nMessage: \nLabel:", answer_tokens: int = 1) -> Room:
    room = Room(engine)
    await room.measure(shared, answer_tokens)
    return room


class TestMeasure:
    async def test_takes_what_all_prompts_have_and_the_answer_off(
        self, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        engine = await connect(scripted)
        shared = "word " * 20
        small, smaller = await measured(engine, shared, 1), await measured(engine, shared, 31)

        assert small.tokens <= engine.context_tokens - len(scripted.tokens(shared)) - 1
        assert small.tokens - smaller.tokens == 30

    @pytest.mark.parametrize("dialect", ["vllm", "openai"])
    async def test_counts_bytes_where_there_is_no_tokenizer(
        self, dialect: str, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        room = Room(await connect(scripted, dialect=dialect))

        assert await room.count("\U0001f98a") == (1 if dialect == "vllm" else 4)

    @pytest.mark.parametrize(("shared", "answer_tokens"), [("word " * 240, 1), ("word", 250)])
    async def test_no_room_for_text_is_a_misconfiguration(
        self, shared: str, answer_tokens: int, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        with pytest.raises(EngineMisconfigured, match=rf"its answer {answer_tokens}, and scripted takes 256: no room"):
            await measured(await connect(scripted), shared, answer_tokens)


class TestParts:
    @pytest.mark.parametrize("dialect", ["vllm", "openai"])
    @own_scripted
    @given(text=texts)
    async def test_each_fits_and_all_cover_the_text(
        self, dialect: str, text: str, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scripted.models["data"][0]["max_model_len"] = 64 if dialect == "vllm" else 110
        engine = await connect(scripted, dialect=dialect)
        room = await measured(engine)
        parts, read = await room.parts(Passage(text))

        assert [part for part in parts if await size(engine, part) > room.tokens] == []
        assert covers([one_line(part) for part in parts], text)
        assert read == ()

    @own_scripted
    @given(text=texts, tokens=st.integers(8, 40))
    async def test_split_takes_any_size(
        self, text: str, tokens: int, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        engine = await connect(scripted)
        parts = await (await measured(engine)).split(text, tokens)

        assert [part for part in parts if await size(engine, part) > tokens] == []
        assert covers([one_line(part) for part in parts], text)

    async def test_text_that_fits_is_one_part_as_it_is(self, scripted: ScriptedEngine, connect: Connect) -> None:
        room = await measured(await connect(scripted))
        text = "a " * room.tokens

        assert await room.parts(Passage(text)) == ([text], ())
        assert len((await room.parts(Passage(text + "a")))[0]) == 2

    async def test_parts_of_a_real_model_fit(self, llama: LlamaEngine, connect: Connect) -> None:
        """Sentences, one of them with many more tokens a character than the rest."""
        sentences = [f"Day {number}: we walked {number * 7} miles to a town by the sea." for number in range(30)]
        text = " ".join([*sentences[:15], f"{DENSE}.", *sentences[15:]])
        engine = await connect(llama.url, context_tokens=120)
        room = await measured(engine)
        parts, _ = await room.parts(Passage(text))

        assert len(parts) > 5
        assert [part for part in parts if await size(engine, part) > room.tokens] == []
        assert covers(parts, text)
        assert all(any(sentence in part for part in parts) for sentence in sentences)


class TestNeighbours:
    @own_scripted
    @given(
        text=st.text(max_size=60),
        context=st.lists(texts, max_size=6),
        context_tokens=st.sampled_from([0, 5, 20, 60, 1_000_000]),
    )
    async def test_are_the_most_relevant_that_fit(
        self, text: str, context: list[str], context_tokens: int, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scripted.models["data"][0]["max_model_len"] = 130
        engine = await connect(scripted)
        room = await measured(engine)
        passage = Passage(text, context, context_tokens)
        parts, read = await room.parts(passage)
        own = await size(engine, text)
        sizes = [await size(engine, neighbour) + LINE for neighbour in context]

        assert len(parts) == 1
        assert list(read) == sorted(set(read)), "in their own order"
        assert chosen(passage, read) == [context[index] for index in read]
        left = min(room.tokens - own, context_tokens)
        for index in relevant(text, context):
            assert (index in read) == (sizes[index] <= left)
            left -= sizes[index] if index in read else 0
        assert left >= 0 or not read

    async def test_are_left_out_for_text_in_parts(self, scripted: ScriptedEngine, connect: Connect) -> None:
        room = await measured(await connect(scripted))
        parts, read = await room.parts(Passage("word " * 300, ["before"]))

        assert len(parts) > 1
        assert read == ()

    async def test_without_a_tokenizer_bytes_are_the_bound(self, scripted: ScriptedEngine, connect: Connect) -> None:
        room = await measured(await connect(scripted, dialect="openai"))

        assert (await room.parts(Passage("hello", ["x" * 16] * 9, 40)))[1] == (7, 8)

    async def test_of_a_real_model_fit_with_the_text(self, llama: LlamaEngine, connect: Connect) -> None:
        engine = await connect(llama.url, context_tokens=200)
        room = await measured(engine)
        passage = Passage("see you at lunch tomorrow", [DENSE, *["where shall we meet for lunch?"] * 30])
        _, read = await room.parts(passage)
        used = sum([await size(engine, neighbour) + LINE for neighbour in chosen(passage, read)])

        assert 0 not in read
        assert 3 < len(read) < 30
        assert used + await size(engine, passage.text) <= room.tokens
