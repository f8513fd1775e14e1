

def test_the_choice_in_the_text_is_picked(client):
    texts = ["A positive surprise", "so negative", "nothing of the kind"]
    tasks = [{"id": i, "data": {"text": text}} for i, text in enumerate(texts)]
    chosen = [slot["result"][0]["value"]["choices"] for slot in predict(client, tasks)]
    assert chosen == [["Positive"], ["Negative"], ["Positive"]]
