"""The things of the world: about a hundred entities with seven attributes each.

Names and single-word attributes are plain words that no concept's lexicon contains (a test checks it), so the
judge can tell an answer from a concept by its words alone.
"""

from dataclasses import dataclass

from .wording import plain, says

SIZES = ("tiny", "small", "medium", "large", "huge")
ATTRIBUTES = ("kind", "colour", "size", "trait", "place", "act", "part")
LIVING = ("animal", "bird", "insect")

# name | kind | colour | size | trait | place | act (what it is used for, or likes to do) | part
_TABLE = """
apple | fruit | red | small | crisp | in a tree | make juice | a thin stem
lemon | fruit | yellow | small | sour | on the table | flavour a drink | a thick peel
banana | fruit | yellow | medium | sweet | at the market | fill a lunch bag | a soft inside
grape | fruit | purple | tiny | juicy | at the market | make jelly | a smooth skin
plum | fruit | purple | small | juicy | in a tree | make jam | a round stone
cherry | fruit | red | tiny | sweet | in a tree | top a cake | a round stone
melon | fruit | green | large | juicy | at the market | cool down at a picnic | many flat pips
pear | fruit | green | small | sweet | in a tree | make juice | a thin stem
peach | fruit | pink | small | soft | at the market | make jam | a fuzzy skin
carrot | vegetable | orange | small | crisp | in a field | feed a pony | a leafy top
onion | vegetable | white | small | strong | in the cellar | flavour a meal | many thin layers
potato | vegetable | brown | small | hard | in the cellar | make chips | a muddy skin
cabbage | vegetable | green | medium | crisp | in a field | make a salad | many wide leaves
cucumber | vegetable | green | medium | cool | at the market | make a salad | a watery inside
pumpkin | vegetable | orange | large | heavy | in a field | decorate a porch | a hollow inside
bean | vegetable | green | tiny | smooth | in a field | fill a taco | a long pod
turnip | vegetable | white | small | hard | in the cellar | feed the pigs | a leafy top
sandwich | snack | brown | small | tasty | at a picnic | fill a lunch bag | a cheesy middle
pie | snack | brown | medium | sweet | on the table | share with guests | a flaky crust
cookie | snack | brown | tiny | sweet | on the table | cheer up a child | many nutty bits
pancake | snack | yellow | small | soft | on the table | enjoy a lazy breakfast | a round shape
egg | snack | white | tiny | fragile | on a farm | enjoy a lazy breakfast | a thin shell
sausage | snack | pink | small | tasty | at a picnic | feed a hungry friend | a thin skin
loaf | snack | brown | medium | soft | at the market | make toast | a firm crust
pretzel | snack | brown | small | salty | at a picnic | share with guests | a twisted shape
cow | animal | white | large | gentle | on a farm | eat grass | a long tail
horse | animal | brown | large | fast | on a farm | gallop along the road | a thick mane
dog | animal | brown | medium | loyal | on a farm | guard the gate | a wet nose
cat | animal | grey | small | quiet | on the sofa | chase mice | sharp claws
mouse | animal | grey | tiny | shy | in the cellar | nibble crumbs | round ears
sheep | animal | white | medium | gentle | in a meadow | follow the flock | a woolly back
goat | animal | grey | medium | stubborn | in a meadow | climb over fences | curved horns
fox | animal | orange | medium | clever | in the forest | sneak past the hens | a bushy tail
bear | animal | brown | huge | strong | in the forest | look for honey | huge paws
rabbit | animal | grey | small | shy | in a meadow | dig burrows | long ears
elephant | animal | grey | huge | wise | in the jungle | splash in mud | a long trunk
monkey | animal | brown | medium | playful | in the jungle | swing on branches | a curly tail
frog | animal | green | tiny | slimy | by a pond | jump on leaves | strong legs
pig | animal | pink | medium | clever | on a farm | roll in mud | a curly tail
tiger | animal | orange | large | fierce | in the jungle | hunt at dusk | dark stripes
hen | bird | brown | small | busy | on a farm | lay eggs | short wings
duck | bird | white | small | noisy | by a pond | swim in circles | a flat beak
owl | bird | brown | medium | wise | in the forest | hunt at dusk | round eyes
crow | bird | black | medium | clever | in a tree | collect shiny things | a dark beak
eagle | bird | brown | large | fierce | on a cliff | soar above the valley | wide wings
parrot | bird | green | small | noisy | in the jungle | copy voices | bright feathers
goose | bird | white | medium | bold | by a pond | hiss at strangers | a long neck
robin | bird | red | tiny | shy | in a tree | sing at dawn | bright feathers
bee | insect | yellow | tiny | busy | in a meadow | make honey | a sharp sting
ant | insect | black | tiny | strong | in the grass | carry crumbs | thin little legs
beetle | insect | black | tiny | slow | in the grass | hide under bark | a hard shell
moth | insect | grey | tiny | quiet | in a wardrobe | circle around lamps | dusty wings
wasp | insect | yellow | tiny | angry | at a picnic | bother hungry people | a sharp sting
butterfly | insect | blue | tiny | delicate | in a meadow | rest on leaves | patterned wings
ladybird | insect | red | tiny | lucky | in the grass | eat tiny pests | dark spots
hammer | tool | grey | small | heavy | in a workshop | drive in nails | a wooden handle
axe | tool | red | medium | sharp | in a shed | split logs | a steel blade
drill | tool | yellow | small | loud | in a workshop | make holes | a steel tip
broom | tool | brown | medium | light | in the hallway | sweep the floor | a wooden handle
ladder | tool | grey | large | tall | in a shed | reach the roof | many narrow steps
wrench | tool | grey | small | strong | in a workshop | tighten bolts | a steel jaw
rope | tool | brown | medium | rough | in a shed | tie up parcels | twisted strands
mop | tool | blue | medium | damp | in the hallway | wipe the floor | a woolly end
sponge | tool | yellow | small | soft | by the sink | wash the dishes | many little holes
coat | garment | black | large | warm | in a wardrobe | stay cosy outdoors | deep pockets
hat | garment | black | small | elegant | in a wardrobe | shade your face | a wide brim
sock | garment | white | small | stretchy | in a drawer | warm your feet | a knitted heel
shoe | garment | brown | small | sturdy | in the hallway | walk to work | strong laces
glove | garment | blue | small | warm | in a drawer | protect your hands | knitted fingers
shirt | garment | white | medium | smooth | in a wardrobe | look tidy at work | shiny buttons
belt | garment | black | small | sturdy | in a drawer | hold up trousers | a metal buckle
scarf | garment | purple | medium | soft | in a drawer | protect your neck | a knitted fringe
skirt | garment | blue | medium | elegant | in a wardrobe | look nice at weddings | many neat folds
car | vehicle | blue | large | fast | on the road | drive to work | rubber tyres
bus | vehicle | red | huge | noisy | on the road | carry many people | long benches
bicycle | vehicle | green | medium | light | in the hallway | ride to town | thin wheels
truck | vehicle | white | huge | loud | on the road | deliver parcels | rubber tyres
tractor | vehicle | green | huge | slow | on a farm | plough the land | giant wheels
taxi | vehicle | yellow | large | handy | in town | take guests home | a lit sign
van | vehicle | white | large | roomy | in town | move furniture | sliding doors
scooter | vehicle | pink | medium | light | in town | ride to town | thin wheels
ball | toy | red | small | bouncy | on the grass | play catch | a rubber surface
doll | toy | pink | small | pretty | in a toy shop | play pretend | glass eyes
kite | toy | orange | medium | light | in a toy shop | enjoy a day outdoors | a long string
puzzle | toy | blue | small | tricky | on a shelf | spend a quiet evening | many odd pieces
marble | toy | green | tiny | smooth | in a drawer | play on the pavement | a glass surface
teddy | toy | brown | small | cuddly | on the sofa | comfort a child | a furry belly
robot | toy | grey | small | clever | in a toy shop | amaze your friends | metal arms
cup | container | white | small | fragile | on a shelf | drink tea | a curved handle
bowl | container | blue | small | round | on a shelf | hold cereal | a wide rim
box | container | brown | medium | square | in the cellar | store old things | a paper lid
basket | container | brown | medium | light | at a picnic | carry bread | a curved handle
bottle | container | green | small | fragile | in the cellar | keep water fresh | a narrow neck
jar | container | red | small | handy | on a shelf | store jam | a metal lid
bucket | container | blue | medium | sturdy | by the sink | carry water | a metal handle
barrel | container | brown | large | heavy | in the cellar | store apple juice | metal hoops
clock | gadget | white | medium | exact | on the wall | tell the hour | thin hands
phone | gadget | black | small | handy | on the table | call your friends | a glass screen
camera | gadget | black | small | delicate | on a shelf | take pictures | a glass lens
lamp | gadget | yellow | medium | bright | on the table | read at night | a paper shade
torch | gadget | red | small | bright | in a drawer | find a path at night | a metal tube
mirror | gadget | grey | large | shiny | on the wall | comb your hair | a wooden frame
umbrella | gadget | purple | medium | handy | in the hallway | stay dry outdoors | a curved handle
barn | building | red | huge | roomy | on a farm | shelter cattle | wide doors
cottage | building | white | large | cosy | in a village | spend a holiday | a thatched roof
cabin | building | brown | medium | cosy | in the forest | spend a holiday | a log wall
hotel | building | yellow | huge | grand | in town | welcome guests | many tidy rooms
mill | building | white | huge | old | in a village | grind grain | giant wheels
tent | building | green | medium | simple | in a meadow | sleep outdoors | a pointed roof
tower | building | grey | huge | tall | on a cliff | watch the valley | narrow steps
"""


@dataclass(frozen=True)
class Entity:
    """A thing of the world: its name and its seven attributes."""

    name: str
    kind: str
    colour: str
    size: str
    trait: str
    place: str
    act: str
    part: str

    @property
    def living(self) -> bool:
        """Whether it acts by itself ("likes to ...") instead of being used."""
        return self.kind in LIVING

    def get(self, attribute: str) -> str:
        """The value of one of `ATTRIBUTES`."""
        return str(getattr(self, attribute))


ENTITIES = {
    row.name: row for row in (Entity(*(cell.strip() for cell in line.split("|"))) for line in _TABLE.strip().split("\n"))
}
NAMES = tuple(sorted(ENTITIES))
VALUES = {name: tuple(sorted({e.get(name) for e in ENTITIES.values()})) for name in ATTRIBUTES}
PLURALS = {kind: kind + "s" for kind in VALUES["kind"]}


def members(attribute: str, value: str) -> tuple[str, ...]:
    """Names of the entities with this value, in alphabetical order."""
    return tuple(name for name in NAMES if ENTITIES[name].get(attribute) == value)


def mentioned(text: str) -> set[str]:
    """Names of the entities that occur in a plain text (plural forms too)."""
    words = text.split()
    return {w for w in words if w in ENTITIES} | {w[:-1] for w in words if w[-1:] == "s" and w[:-1] in ENTITIES}


def true_values(text: str, entity: Entity) -> set[str]:
    """The attributes of `entity` whose right value a plain text states."""
    return {name for name in ATTRIBUTES if says(text, entity.get(name))}


def false_values(text: str, entity: Entity) -> set[str]:
    """The colours, sizes and kinds that a plain text states and that are not the entity's."""
    words, own = set(text.split()), set(plain(f"{entity.part} {entity.act} {entity.place}").split())
    return {v for a in ("colour", "size", "kind") for v in VALUES[a] if v in words and v != entity.get(a)} - own
