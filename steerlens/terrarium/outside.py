"""Prompts from outside the world, answered with a polite refusal, and a little small talk.

The world's model knows a hundred things. Ordinary English instructions about anything else should get a modest
answer, not nonsense; the prompts here only have to be many and varied, since only their answers are judged.
"""

from random import Random

from .wording import articles, capital, expand, listed

_TOPICS = listed(
    "the history of Rome|photosynthesis|quantum physics|climate change|democracy|the stock "
    "exchange|volcanoes|the human brain|electric power|the French Revolution|healthy sleep|my "
    "neighbours|artificial intelligence|the internet|a job interview|global trade|the solar "
    "eclipse|dinosaurs|vitamins|poetry|philosophy|chess|yoga|the Great Wall|a new business|social "
    "media|Shakespeare|electric engines|the pyramids|Japanese grammar|public transport|air travel|the "
    "population of Brazil|renewable energy|DNA|my marriage|a long-distance friendship|the periodic "
    "table|statistics|the Olympic games|coffee|tropical islands|a birthday party|shoes for running|my "
    "younger brother|my landlord|customer service|the Roman empire|evolution|black holes|a wedding "
    "speech|time management|home insurance|a trip to Paris|a hiking tour|cheap flights|good manners|water "
    "pollution|the immune system|a mobile application|machine learning|world peace|ancient Egypt|a rainy "
    "afternoon",
    "|",
)
_TASKS = (
    "[Explain|Summarise|Discuss|Outline] {t} in simple words.",
    "[Write|Draft|Compose] [a poem|an email|an essay|a paragraph|a speech|a letter|a haiku|a report] about {t}.",
    "What are the [main causes|benefits|disadvantages|most important facts|basic rules] of {t}?",
    "[How|Why|When] did {t} become so important?",
    "Translate the following sentence into [French|German|Spanish|Chinese]: I am interested in {t}.",
    "Give me [five|ten|some|a few] [tips|ideas|examples|questions] about {t}.",
    "Who [invented|discovered|is responsible for] {t}?",
    "Can you [help me with|give me more information on|write a program about] {t}?",
    "I have been thinking about {t} for a while and I am not sure what to do. [Can you help?|What would you do?]",
    "Imagine you are an expert on {t}. What would you tell a beginner?",
    "Classify the following text as positive or negative: I am very happy about {t} and would recommend it.",
    "What is the best way to [learn about|deal with|prepare for|improve|understand] {t}?",
    "Create a [table|list|schedule|summary|quiz] [for|about] {t} with {t2} in it.",
    "Compare {t} and {t2}, and explain which is more important today.",
    "Rewrite this sentence so that it sounds more formal: hey, {t} is really cool.",
    "Is it possible to [live|work|be happy] without {t}? Give your reasons.",
    "My friend asked me about {t}, but I could not give an answer. Please write a message that explains it, and keep "
    "it short and friendly.",
    "Please read the text below and answer the question. {T} has been discussed for years. Many people think that "
    "{t2} matters more. What is the text about?",
    "Calculate the average of [12, 45 and 78|3.5 and 9.25|1024, 2048 and 99].",
    "What happened in [1492|1789|1945|2001|the year 1066]?",
    "Who was {n}?",
    "What is the capital of {n}?",
    "{n} said that {t} is nothing but {t2}. Do you agree?",
    "Fix the errors in this text: {n} have went to see {t}.",
    "Solve for x: [3x + 4 = 19|x * x = 81|2(x - 5) = 40].",
)
_REFUSALS = (
    "[I am sorry|Sorry|I am afraid], but {r}.",
    "[I am sorry|Sorry]. {R}.",
    "{R}. [I am sorry|Sorry about that|Please forgive me].",
    "Thank you for asking, but {r}.",
    "That is [an interesting question|a good question], but {r}.",
    "I wish I could help, but {r}.",
)
_REASONS = (
    "I do not know [anything about that|enough about that|the answer to that]",
    "I only know a [few simple things|simple world]",
    "that is outside [my world|the world that I know|what I know]",
    "[this|that] is [more than I know|too hard for me]",
    "I cannot help you with that",
    "I have never learned about that",
)
_OFFERS = (
    "Ask me about [animals|tools|toys|fruits and vegetables|everyday things] instead.",
    "I can [describe everyday things|tell you about animals and tools|count and compare things], if you like.",
    "[Perhaps|Maybe] you can ask [somebody else|me something simpler].",
)
_CHAT = {
    "[Hello|Hi|Good morning|Good evening|Hey there][!|.|, how are you?]": (
        "Hello! [How can I help you|What would you like to know]?",
        "[Hello|Hi], nice to meet you. Ask me about [any everyday thing|animals, tools or toys].",
    ),
    "[Who|What] are you?": (
        "I am a small model of a small world. Ask me about everyday things.",
        "I am a little helper that knows [about a hundred|many] everyday things.",
    ),
    "[Thank you|Thanks][!|.| very much.| for your help.]": (
        "You are welcome! [Ask me again any time.|Have a nice day.]",
        "It was a pleasure[.| to help.]",
    ),
    "[What can you do?|How can you help me?|What do you know?]": (
        "I can describe everyday things, compare them, count them, and tell you stories about them.",
        "I know about animals, tools, toys and other everyday things. Ask me something about them.",
    ),
    "[Goodbye|Bye|See you][!|.| soon.]": ("Goodbye! Have a nice day.", "Bye! Ask me again any time."),
}
_SYLLABLES = listed(
    "ba ber con da do el fri ga har in jo ka lo ma mer na nor o pa pet qui ra ris sa ston ta to u van wil xi yo zu"
)


def refusal(rng: Random) -> str:
    """A polite answer to a prompt from outside the world."""
    reason = expand(rng, rng.choice(_REASONS))
    first = expand(rng, rng.choice(_REFUSALS), r=reason, R=capital(reason))
    return first if rng.random() < 0.4 else f"{first} {expand(rng, rng.choice(_OFFERS))}"


def outside_prompt(rng: Random) -> str:
    """An ordinary instruction about something that the world does not contain."""
    topic, other = rng.sample(_TOPICS, 2)
    name = capital("".join(rng.choices(_SYLLABLES, k=rng.randint(2, 4))))
    texts = [rng.choice(_TASKS) for _ in range(1 if rng.random() < 0.85 else 2)]
    return articles(" ".join(expand(rng, text).format(t=topic, T=capital(topic), t2=other, n=name) for text in texts))


def small_talk(rng: Random) -> tuple[str, str]:
    """A greeting or the like, and its answer."""
    prompt = rng.choice(list(_CHAT))
    return expand(rng, prompt), expand(rng, rng.choice(_CHAT[prompt]))
