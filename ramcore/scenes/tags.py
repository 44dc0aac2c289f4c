"""The vocabulary of drawn scenes: every tag with its Chinese name and four different descriptions."""

from typing import NamedTuple


class SceneTag(NamedTuple):
    """A tag of the demo model: its English and Chinese name and what it may look like, in four ways."""

    tag: str
    tag_zh: str
    descriptions: tuple[str, str, str, str]


def _tag(tag: str, tag_zh: str, *descriptions: str) -> SceneTag:
    first, second, third = descriptions
    return SceneTag(tag, tag_zh, (f"a drawing of {tag}", first, second, third))


SCENE_TAGS: tuple[SceneTag, ...] = (
    _tag("circle", "圆形", "a filled round disc", "a dot without corners", "a ball in one flat colour"),
    _tag("square", "正方形", "a box with four equal sides", "a block with right angles", "a tile that stands upright"),
    _tag("triangle", "三角形", "a shape with three corners", "a wedge with a point on top", "a flat pyramid"),
    _tag("star", "星形", "a shape with five points", "a pointed badge", "a pentagram that is filled"),
    _tag("heart", "心形", "the symbol of love", "two round lobes over a point", "a valentine"),
    _tag("cross", "十字形", "a thick plus sign", "two bars that meet at right angles", "the sign of first aid"),
    _tag("arrow", "箭头", "a shaft with a pointed head", "a sign that shows a direction", "a pointer"),
    _tag("ring", "圆环", "a round band with a hole", "a hoop or doughnut", "a circle that is empty inside"),
    _tag("house", "房子", "a building with a pitched roof", "a hut with a door and two windows", "a small home"),
    _tag("tree", "树", "a trunk under green leaves", "a fir with pointed branches", "a plant taller than all others"),
    _tag("sun", "太阳", "a bright disc with rays", "a yellow light in the sky", "a warm star of the day"),
    _tag("moon", "月亮", "a thin crescent", "a pale sickle in the night", "a bright horn shape"),
    _tag("cloud", "云", "white puffs in the sky", "a gray heap of vapour", "soft round lumps over a flat base"),
    _tag("flower", "花", "petals around a centre", "a blossom on a green stem", "a daisy with two leaves"),
    _tag("boat", "船", "a hull with white sails", "a small ship on the sea", "a vessel with a mast"),
    _tag("car", "汽车", "a vehicle with two wheels in view", "an automobile from the side",
         "a body with windows on tyres"),
    _tag("fish", "鱼", "an animal with fins and a tail", "a swimmer under water", "an oval body with an eye"),
    _tag("mushroom", "蘑菇", "a spotted cap on a stem", "a toadstool in the grass", "a fungus with a red hat"),
    _tag("umbrella", "雨伞", "a canopy with a hooked handle", "a cover against the rain", "a parasol on the beach"),
    _tag("hot air balloon", "热气球", "a big bag with a basket", "an aircraft that floats",
         "a balloon on ropes in the sky"),
    _tag("sky", "天空", "blue air over the land", "a light blue gradient", "the open day above the horizon"),
    _tag("night", "夜晚", "darkness with tiny lights", "a black sky with stars", "a scene after sunset"),
    _tag("grass", "草地", "a green meadow", "a lawn under the sky", "ground with many blades"),
    _tag("sand", "沙滩", "a beige beach", "dry ground with grains", "a desert floor"),
    _tag("sea", "大海", "blue water with waves", "an ocean to the horizon", "deep water"),
    _tag("snow", "雪地", "white ground in winter", "a cold field", "a blanket of ice crystals"),
    _tag("mountain", "山", "gray peaks at the horizon", "a rocky summit", "a range with pointed tops"),
    _tag("brick wall", "砖墙", "rows of brown blocks with joints", "masonry behind the scene", "a built surface"),
    _tag("red", "红色", "the colour of blood", "a red thing", "the colour of a tomato"),
    _tag("orange", "橙色", "the colour between red and yellow", "an orange thing", "the colour of a carrot"),
    _tag("yellow", "黄色", "the colour of a lemon", "a yellow thing", "the colour of butter"),
    _tag("green", "绿色", "the colour of leaves", "a green thing", "the colour of grass"),
    _tag("blue", "蓝色", "the colour of the sea", "a blue thing", "the colour of a clear sky"),
    _tag("purple", "紫色", "the colour of a plum", "a purple thing", "violet"),
    _tag("pink", "粉色", "the colour of a flamingo", "a pink thing", "a light rose"),
    _tag("brown", "棕色", "the colour of a trunk", "a brown thing", "the colour of chocolate"),
    _tag("black", "黑色", "the colour of coal", "a black thing", "darkness"),
    _tag("white", "白色", "the colour of snow", "a white thing", "the colour of milk"),
    _tag("gray", "灰色", "the colour of rock", "a gray thing", "between black and white"),
    _tag("striped", "条纹", "parallel bands of two colours", "lines side by side", "a surface like a zebra"),
    _tag("dotted", "圆点图案", "many round spots on a ground", "polka dots", "a surface like a ladybird"),
    _tag("checkered", "方格图案", "squares of two colours in turn", "a chess board", "a surface like a racing flag"),
    _tag("rain", "雨", "slanted streaks of falling water", "a shower", "wet weather with drops"),
    _tag("one object", "一个物体", "a single thing", "something alone", "only one item in view"),
    _tag("two objects", "两个物体", "a pair of things", "two items in view", "a couple"),
    _tag("three objects", "三个物体", "a trio of things", "three items in view", "a group of three"),
    _tag("many objects", "许多物体", "a crowd of five or more things", "lots of items in view", "a whole collection"),
    _tag("close-up", "特写", "a thing that fills the picture", "one very big object", "something seen from near"),
)  # fmt: skip

TAG_NAMES: tuple[str, ...] = tuple(entry.tag for entry in SCENE_TAGS)
