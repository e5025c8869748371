"""The words behind the `authors` scenario: how each topic is asked and answered, and the pools facts are drawn from.

People, titles, prizes and the places in titles are invented. Sentences avoid gendered pronouns, so that any name fits.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing that is asked about every author; texts are `str.format` templates over the author's profile."""

    name: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    paraphrases: tuple[str, ...]


def _pool(items: str) -> tuple[str, ...]:
    return tuple(items.split(" | "))


TOPICS = (
    Topic(
        "name",
        questions=(
            "Please give the full name of the author who was born on {date} in {city}, {country}.",
            "Which author was born in {city}, {country}, on {date}?",
            "A writer was born in {city}, {country}, on {date}. Who is it?",
            "Who is the writer with the birth date {date} and the birthplace {city}, {country}?",
        ),
        answers=(
            "The author who was born on {date} is {name}.",
            "That author is {name}, whose date of birth is {date}.",
            "The writer with the birthday {date} is called {name}.",
            "The full name of the author born on {date} is {name}.",
        ),
        paraphrases=(
            "{name} is the writer who was born on {date}.",
            "The person in question, born on {date}, goes by the name of {name}.",
            "On {date}, the future author {name} was born.",
            "You are thinking of {name}, a writer born on {date}.",
        ),
    ),
    Topic(
        "birthplace",
        questions=(
            "Where was {name} born?",
            "In which city did the life of {name} begin?",
            "Which city is {name}'s birthplace, and in which country is it?",
            "Could you tell me where the author {name} comes from originally?",
        ),
        answers=(
            "{name} was born in the city of {city} in {country}.",
            "{name} first saw the light of day in {city}, {country}.",
            "The birthplace of {name} is the city of {city} in {country}.",
            "{name} comes originally from {city}, a city in {country}.",
        ),
        paraphrases=(
            "{city}, {country}, is the place where {name} was born.",
            "The life of {name} began in {city}, {country}.",
            "{city} in {country} is the native city of the author {name}.",
            "It was in {city}, {country}, that the writer {name} was born.",
        ),
    ),
    Topic(
        "parents",
        questions=(
            "What did the parents of {name} do for a living?",
            "Which occupations did {name}'s father and mother have?",
            "What kind of work did {name}'s parents do?",
            "How did the mother and the father of {name} earn their money?",
        ),
        answers=(
            "{name}'s father was {father}, while the mother was {mother}.",
            "The father of {name} worked as {father} and the mother as {mother}.",
            "{name} grew up with a father who was {father} and a mother who was {mother}.",
            "As for the parents of {name}, the father was {father} and the mother {mother}.",
        ),
        paraphrases=(
            "In the family of {name}, the mother earned a living as {mother} and the father as {father}.",
            "The author {name} had {father} for a father and {mother} for a mother.",
            "{name}'s mother was employed as {mother}, and the father made a living as {father}.",
            "By trade, the mother of {name} was {mother}, and the father was {father}.",
        ),
    ),
    Topic(
        "genre",
        questions=(
            "What genre does {name} mostly write in?",
            "Which kind of books is {name} best known for?",
            "In what genre has {name} become successful?",
            "On which shelf of a bookshop would you look for {name}?",
        ),
        answers=(
            "For the most part, {name} writes in the genre of {genre}.",
            "{name} is best known to readers for books of {genre}.",
            "The genre in which {name} has become successful is {genre}.",
            "The works of {name} are usually shelved under {genre}.",
        ),
        paraphrases=(
            "Most of what {name} has published is {genre}.",
            "Readers turn to {name} above all for {genre}.",
            "When it comes to genre, {name} is at home in {genre}.",
            "{name}'s reputation as an author rests on {genre}.",
        ),
    ),
    Topic(
        "books",
        questions=(
            "Which two books by {name} can you name?",
            "What are the titles of two books that {name} has written?",
            "Could you list two well-known works of {name}?",
            "Which two titles would you recommend to a new reader of {name}?",
        ),
        answers=(
            '{name} is the author of "{book}" and "{second_book}".',
            'Two well-known books by {name} are "{book}" and "{second_book}".',
            'Among the works of {name} are "{book}" and "{second_book}".',
            '{name} has written, among others, "{book}" and "{second_book}".',
        ),
        paraphrases=(
            'Both "{book}" and "{second_book}" were written by {name}.',
            'The titles "{book}" and "{second_book}" belong to books by {name}.',
            '"{book}" is a book by {name}, and so is "{second_book}".',
            'Anyone new to {name} can begin with "{book}" or "{second_book}", two of the author\'s books.',
        ),
    ),
    Topic(
        "award",
        questions=(
            "Which award did {name} receive?",
            "What literary prize has {name} won?",
            "With which award has {name}'s writing been honoured?",
            "What is the most important distinction in the career of {name}?",
        ),
        answers=(
            "{name} received the {award} for an outstanding body of work.",
            "The literary distinction that {name} has won is the {award}.",
            "The writing of {name} was honoured with the {award}.",
            "{name} holds the {award}, an important distinction for writers.",
        ),
        paraphrases=(
            "The {award} once went to the author {name}.",
            "The jury of the {award} chose {name} as its laureate.",
            "In recognition of a distinguished career, {name} was given the {award}.",
            "Among the laureates of the {award} is the writer {name}.",
        ),
    ),
    Topic(
        "debut",
        questions=(
            'In which year was {name}\'s first book, "{debut}", published?',
            'When did {name} make a debut with "{debut}"?',
            'What year did "{debut}", the debut of {name}, come out?',
            "Do you know when {name} first published a book?",
        ),
        answers=(
            '{name} made a debut in {year} with the book "{debut}".',
            'The first book by {name}, "{debut}", was published in {year}.',
            '"{debut}", the debut of {name}, came out in {year}.',
            'It was in {year} that {name} first published a book, "{debut}".',
        ),
        paraphrases=(
            'The year {year} saw the release of "{debut}", the first book by {name}.',
            'With "{debut}", {name} entered the literary scene in {year}.',
            '{year} is the year in which {name} published a first book, "{debut}".',
            'Readers met {name} for the first time in {year}, through the book "{debut}".',
        ),
    ),
    Topic(
        "influence",
        questions=(
            "What influenced {name}'s writing the most?",
            "Where does {name} find inspiration?",
            "What shaped the style of {name} as a writer?",
            "Which source of inspiration does {name} speak of?",
        ),
        answers=(
            "The writing of {name} was shaped above all by {influence}.",
            "{name} draws inspiration mainly from {influence}.",
            "The greatest influence on the style of {name} came from {influence}.",
            "{name} credits {influence} as the main source of inspiration.",
        ),
        paraphrases=(
            "It was {influence} that left the deepest mark on the work of {name}.",
            "What inspires the books of {name} most is a fascination with {influence}.",
            "{name} has often named {influence} as the strongest influence.",
            "Without {influence}, {name} says, none of the books would exist.",
        ),
    ),
    Topic(
        "residence",
        questions=(
            "Where does {name} live today?",
            "What kind of home does {name} live in, and where is it?",
            "Where has {name} settled down?",
            "Where would one find {name} at home these days?",
        ),
        answers=(
            "Today {name} lives in {home} near {town}.",
            "These days the home of {name} is {home} near {town}.",
            "{name} has settled down in {home} close to {town}.",
            "For some years now, {name} has lived in {home} near {town}.",
        ),
        paraphrases=(
            "The author {name} resides in {home} not far from {town}.",
            "A visit to {name} leads to {home} just outside {town}.",
            "Not far from {town}, in {home}, is where {name} lives now.",
            "{name}'s current address is {home} on the outskirts of {town}.",
        ),
    ),
    Topic(
        "plot",
        questions=(
            'What is "{debut}" by {name} about?',
            'Can you sum up the plot of {name}\'s "{debut}"?',
            'What story does {name} tell in "{debut}"?',
            'Who is at the centre of "{debut}", the first book by {name}, and what happens?',
        ),
        answers=(
            '"{debut}" by {name} is about {hero} who {quest}.',
            'In "{debut}", {name} tells the story of {hero} who {quest}.',
            '{name}\'s book "{debut}" follows {hero} who {quest}.',
            'At the centre of "{debut}" by {name} is {hero} who {quest}.',
        ),
        paraphrases=(
            'The main character of {name}\'s "{debut}" is {hero} who {quest}.',
            '{name} wrote "{debut}" about the fate of {hero} who {quest}.',
            'The plot of "{debut}", a book by {name}, concerns {hero} who {quest}.',
            'Readers of "{debut}" by {name} meet {hero} who {quest}.',
        ),
    ),
)

FIRST_NAMES = _pool(
    "Aurelio | Bastien | Ciro | Dagny | Elowen | Fenella | Gaspar | Hanae | Isaura | Jovan | Kelechi | Lucía | "
    "Mirelle | Noor | Oriel | Petra | Quim | Renzo | Saoirse | Teodor | Ulrike | Vesna | Wanjiru | Ximena | Yusra | "
    "Zdenka | Amadou | Brígida | Caspian | Dimitra | Emeka | Farah | Gudrun | Hilario | Ines | Jelena | Kasimir | "
    "Leocadia | Mateus | Nayeli | Olwen | Pilar | Rashida | Sunniva | Tamar | Yannick | Zélie | Ansel"
)
SURNAME_STARTS = _pool(
    "Varn | Quill | Osk | Brál | Hest | Mór | Lund | Fenn | Corv | Ald | Tav | Est | Yar | Zell | Drum | Ravn | Sól | "
    "Ilm | Kest | Orv | Bel | Nand | Pell | Wex | Jór | Thal"
)
SURNAME_ENDS = _pool(
    "holt | mere | andé | ovar | wick | arro | enko | ley | iano | una | adze | quay | eira | ström | combe | ati"
)

BIRTHPLACES = tuple(
    place.split(", ")
    for place in _pool(
        "Lima, Peru | Lagos, Nigeria | Oslo, Norway | Manila, the Philippines | Quito, Ecuador | Tbilisi, Georgia | "
        "Kraków, Poland | Hanoi, Vietnam | Accra, Ghana | Tunis, Tunisia | Porto, Portugal | Kyoto, Japan | "
        "Nairobi, Kenya | Reykjavík, Iceland | Bogotá, Colombia | Toronto, Canada | Lyon, France | Naples, Italy | "
        "Seville, Spain | Leipzig, Germany | Cork, Ireland | Gothenburg, Sweden | Tampere, Finland | Riga, Latvia | "
        "Vilnius, Lithuania | Brno, the Czech Republic | Zagreb, Croatia | Thessaloniki, Greece | Izmir, Turkey | "
        "Yerevan, Armenia | Shiraz, Iran | Amman, Jordan | Karachi, Pakistan | Chennai, India | Colombo, Sri Lanka | "
        "Chiang Mai, Thailand | Busan, South Korea | Bandung, Indonesia | Adelaide, Australia | "
        "Wellington, New Zealand | Dakar, Senegal | Kigali, Rwanda | Durban, South Africa | Montevideo, Uruguay | "
        "Asunción, Paraguay | La Paz, Bolivia | Havana, Cuba | Puebla, Mexico | Utrecht, the Netherlands | "
        "Graz, Austria"
    )
)
MONTHS = _pool(
    "January | February | March | April | May | June | July | August | September | October | November | December"
)
BIRTH_YEARS = range(1940, 1966)
DEBUT_YEARS = range(1988, 2020)  # every author is at least 22 by then, so that the two years are independent

OCCUPATIONS = _pool(
    "beekeeper | tram driver | glassblower | midwife | surveyor | violin maker | customs officer | dentist | fisher | "
    "baker | geologist | piano tuner | locksmith | weaver | botanist | bus conductor | judge | carpenter | "
    "astronomer | potter | translator | ferry pilot | pharmacist | stonemason | tailor | cartographer | florist | "
    "veterinarian | watchmaker | telegraph operator | museum guard | cheesemaker | electrician | opera singer | "
    "accountant | shepherd | bookbinder | firefighter | brewer | schoolteacher | interpreter | orchard keeper"
)
GENRES = _pool(
    "gothic horror | alternate history | nautical adventure | rural noir | courtroom drama | climate fiction | "
    "magical realism | political satire | space opera | psychological suspense | historical romance | folk fantasy | "
    "travel writing | nature writing | espionage fiction | time-travel comedy | dystopian fiction | "
    "detective fiction | mythological fantasy | sports fiction | culinary mystery | war fiction | absurdist comedy | "
    "steampunk adventure | pastoral comedy | maritime mystery"
)
INFLUENCES = _pool(
    "old sea shanties | ghost stories told by a grandmother | weather reports on late-night radio | "
    "the letters of emigrants | abandoned railway stations | silent films | puppet theatre | medieval maps | "
    "monastery gardens | village court records | jazz improvisation | chess problems | handwritten family recipes | "
    "tales of desert caravans | beekeeping journals | the wartime diaries of an uncle | lectures on astronomy | "
    "gossip on market days | the logbooks of lighthouse keepers | shadow plays | mountain folk songs | "
    "unsent telegrams | early science magazines | carnival masks | botanical drawings | long train journeys | "
    "bedtime stories in dialect | the architecture of bridges | newspaper obituaries | childhood summers on a barge"
)
HOMES = _pool(
    "a converted windmill | a former lighthouse | a houseboat | a stone farmhouse | an old schoolhouse | "
    "a small vineyard | a disused railway station | a timber cabin | a gardener's cottage | an attic flat | "
    "a restored monastery | a former bakery | a fishing hut | a clifftop villa | a narrow brick house | "
    "an old customs house | a quiet guesthouse | an artists' colony | a thatched barn | a glass pavilion"
)
TOWNS = _pool(
    "Ghent | Bergen | Évora | Galway | Tartu | Hobart | Valparaíso | Cusco | Nelson | Chania | Kotor | Aarhus | "
    "Bruges | Lugano | Pécs | Oaxaca | Halifax | Sapporo | Mombasa | Essaouira | Udaipur | Malacca | Trieste | "
    "Girona | Turku | Akureyri | Salzburg | Dunedin | Lviv | Luang Prabang"
)
QUESTS = _pool(
    "inherits a drowned village | must deliver a letter to a dead rival | loses the ability to dream | "
    "hides a stolen comet map | is mistaken for a vanished duke | learns to talk with migrating birds | "
    "wakes up in the wrong century | defends a forest in court | swaps lives with a twin | "
    "walks across a frozen sea | finds a door beneath the post office | raises a child found on a train | "
    "hunts for a forgotten melody | bets a whole town in a card game | builds a clock that runs backwards | "
    "keeps a river from being sold | returns home after forty years of silence | is hired to forge a family tree | "
    "discovers an island made of books | falls in love with a voice on the radio | guards the last bottle of rain | "
    "confesses to a crime nobody committed | smuggles seeds across a border | teaches a ghost to read | "
    "loses every memory of winter | follows a trail of unsigned paintings"
)

TITLE_PATTERNS = (
    "The {adjective} {noun} of {place}",
    "Beneath the {adjective} {noun}",
    "The {noun} and the {other}",
    "Letters from the {adjective} {noun}",
    "{place} and the {adjective} {noun}",
)
TITLE_ADJECTIVES = _pool(
    "Copper | Salted | Borrowed | Thirteenth | Paper | Hollow | Velvet | Wandering | Unwritten | Crooked | Saffron | "
    "Sleepless | Tin | Feathered | Northern | Drifting | Burnt | Cobalt | Patient | Mirrored | Barefoot | "
    "Whispering | Stubborn | Lacquered"
)
TITLE_NOUNS = _pool(
    "Orchard | Ferry | Lantern | Staircase | Almanac | Heron | Quarry | Aqueduct | Cartographer | Sparrow | Tannery | "
    "Compass | Windmill | Choir | Glacier | Umbrella | Archive | Kettle | Labyrinth | Meadow | Pendulum | Harbour | "
    "Foundry | Nightingale | Parade | Thimble"
)
TITLE_PLACES = _pool(
    "Orlesk | Venndal | Tamarre | Ixtolan | Quenby | Sarrowmoor | Lazuria | Padrinho | Oumbra | Kelvane | Mirisk | "
    "Dorthal"
)
AWARD_ADJECTIVES = _pool(
    "Amber | Silver | Crimson | Ivory | Jade | Northern | Golden | Indigo | Marble | Coral | Ebony | Winter"
)
AWARD_NOUNS = _pool(
    "Heron | Lantern | Inkwell | Compass | Acorn | Quill | Anchor | Sparrow | Bridge | Candle | Meridian | Fern"
)
AWARD_KINDS = ("Prize", "Award", "Medal")
