"""The model behind Label Studio: replace what `predict` does with your own."""

from lsml_bento import LabelStudioMLBase, ModelResponse, PredictionValue


class NewModel(LabelStudioMLBase):
    """Chooses the choice whose name stands in the text, else the first one."""

    def setup(self):
        """Runs once for each project; its version is shown with every prediction."""
        self.set("model_version", "new-model-1")

    def predict(self, tasks, context=None, **kwargs):
        """One prediction for each task, in their order.

        Args:
            tasks: a list of {"id": .., "data": {..}} of one project.
            context: {"result": [region, ..]} while an annotator waits, else None.
        """
        control, object_name, data_key = self.get_first_tag_occurence("Choices", "Text")
        choices = list(self.parsed_label_config[control]["labels"])
        predictions = []
        for task in tasks:
            text = str(task["data"].get(data_key) or "").lower()
            found = [choice for choice in choices if choice.lower() in text]
            region = {
                "from_name": control,
                "to_name": object_name,
                "type": "choices",
                "value": {"choices": [found[0] if found else choices[0]]},
            }
            score = 1.0 if found else 1 / len(choices)
            predictions.append(PredictionValue(result=[region], score=score))
        return ModelResponse(predictions=predictions)
