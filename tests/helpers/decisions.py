"""Answers of every task, and what of them is decided."""

CITY = {"entity_type": "city", "attributes": ["mayor", "population"]}
ATTACK = {"event_type": "attack", "trigger": True, "arguments": ["attacker", "place"]}
GIVEN = {"event_type": "attack", "trigger": ["fired", "fire"], "arguments": ["place"]}
ALONE = {"event_type": "attack", "trigger": True, "arguments": []}
# Below each answer "x" stands below its decisions, and "0" below those that nothing was found for a label.
WORKED = [
    ("NER", ["person", "place"], '{"person": [], "place": ["Rome", "New \\"York"]}',
                                 "............0............xxxxxxx..xxxxxxxxxxxx."),
    ("RE", ["spouse", "child"], '{"spouse": [{"subject": "A", "object": "Bob"}], "child": []}',
                                "............x............xx.............xxxx.x............0."),
    ("SPO", [{"subject_type": "a", "predicate": "of", "object_type": "b"}], '{"of": []}', "........0."),
    ("EE", [ATTACK], '{"attack": [{"trigger": "NAN", "arguments": {"attacker": "NAN", "place": ["A", "B"]}}]}',
                     "............x............xxxx................x...........xxxxx...........x.xx...xxx..x."),
    ("EE", [ATTACK], '{"attack": [{"trigger": "fired", "arguments": {}}]}',
                     "............x............xxxxxx................x.x."),
    ("EE", [ALONE], '{"attack": [{"trigger": "fired", "arguments": {}}]}',
                    "............x............xxxxxx..................x."),
    ("EET", ["attack"], '{"attack": ["fired"]}', "............xxxxxxxx."),
    ("EEA", [GIVEN], '{"attack": [{"trigger": "fired", "arguments": {"place": "A"}}]}',
                     "............x................x.................x........xxx..x."),
    ("KG", [CITY], '{"city": {}}', "..........0."),
    ("KG", [CITY], '{"city": {"Leeds": {"population": ["A", "B"]}, "York": {"mayor": "C", "population": "D"}}}',
                   "..........xxxxxxx....x............x.xx...xxx.x..xxxxx....x.......xxxx...............xxx.x."),
]  # fmt: skip
