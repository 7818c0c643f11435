"""Facts that are right except for the label, by hand."""

from helpers.answers import entities, instance, scorer_of

from iepile_builder.scoring.confusable import count_confusable, describe_confusable


LABELS = ["person", "actor", "city", "river"]
HARD = {"person": ["actor"], "city": ["river"]}


def test_entities_by_hand() -> None:
    gold = entities(person=["Ada", "Bob"], city=["Rome"])
    answer = {
        "person": ["Ada", "Ada", "Rome", "Eve"],  # right, repeated, another label, spurious
        "actor": ["Ada", "Bob"],  # confusable, even where the right one is there, too
        "river": ["Rome"],  # confusable
    }
    found = count_confusable(scorer_of([instance("NER", LABELS, gold, answer)]), HARD)
    assert found["overall"] == {"right": 1, "confusable": 3, "other": 1, "rate": 60.0}
    assert found["labels"]["NER"] == {
        "person": {"right": 1, "confusable": 2, "other": 0, "rate": 200 / 3},
        "city": {"right": 0, "confusable": 1, "other": 1, "rate": 50.0},
    }
    assert found["dictionaries"] == {"NER": {"hand": "given"}}
    assert describe_confusable(found) == (
        "confusable labels: 3 of 5 predicted facts with the mentions of a gold fact (60.0%); dictionary: given"
    )


def test_the_dictionary_goes_from_the_right_label() -> None:
    row = instance("NER", LABELS, entities(actor=["Ada"]), {"person": ["Ada"]})
    assert count_confusable(scorer_of([row]), HARD)["overall"]["other"] == 1  # actor has no entry


def test_pairs_events_and_attributes_by_hand() -> None:
    pair = {"subject": "Ada", "object": "Bob"}
    turned = {"subject": "Bob", "object": "Ada"}
    gold = [{"head": "Ada", "relation": "wife", "tail": "Bob", "head_type": "p", "tail_type": "p"}]
    relation = instance("RE", ["wife", "friend"], gold, {"friend": [pair, turned]})
    items = [{"subject_type": "p", "predicate": name, "object_type": "p"} for name in ("wife", "friend")]
    typed = instance("SPO", items, gold, {"friend": [pair]})
    event = {"event_trigger": "met", "event_type": "meet", "arguments": [{"argument": "Ada", "role": "who"}]}
    asked = [{"event_type": name, "trigger": True, "arguments": ["who", "with"]} for name in ("meet", "call")]
    said = {"trigger": "met", "arguments": {"who": "Ada", "with": "Ada"}}
    events = instance("EE", asked, [event], {"call": [said], "meet": [{**said, "trigger": "NAN"}]})
    kg = [{"entity_type": "city", "attributes": ["mayor"]}, {"entity_type": "town", "attributes": ["head"]}]
    attributes = instance("KG", kg, [{"head": "Rome", "relation": "mayor", "tail": "Ada"}], {
        "town": {"Rome": {"head": "Ada"}}, "city": {"Rome": {"mayor": "Ada"}},
    })  # fmt: skip
    given = {
        "RE": {"hand": {"wife": ["friend"]}},
        "SPO": {"hand": {"p_wife_p": ["p_friend_p"]}},
        "EE": {"hand": {"meet": ["call"]}},
        "KG": {"hand": {"city": ["town"]}},
    }
    found = count_confusable(scorer_of([relation, typed, events, attributes]), given)
    assert found["labels"]["RE"]["wife"] == {"right": 0, "confusable": 1, "other": 0, "rate": 100.0}
    assert found["labels"]["SPO"]["p_wife_p"] == {"right": 0, "confusable": 1, "other": 0, "rate": 100.0}
    # trigger and `who` under `call`, `who` under `meet`; the role `with` is wrong under either
    assert found["labels"]["EE"]["meet"] == {"right": 1, "confusable": 2, "other": 0, "rate": 200 / 3}
    assert found["labels"]["KG"]["city"] == {"right": 1, "confusable": 0, "other": 0, "rate": 0.0}


def test_without_a_file_the_dictionary_is_published_or_mined() -> None:
    rows = [
        instance("NER", ["city", "city state"], entities(city=["Rome"]), {"city state": ["Rome"]}),
        instance("NER", ["ACTOR", "DIRECTOR"], entities(ACTOR=["Ada"]), {"DIRECTOR": ["Ada"]}, source="mit-movie"),
    ]
    found = count_confusable(scorer_of(rows))
    assert found["dictionaries"] == {"NER": {"hand": "mined from the label names", "mit-movie": "published"}}
    assert found["labels"]["NER"]["city"]["confusable"] == 1
    assert describe_confusable(found).endswith("dictionary: mined from the label names, published")
