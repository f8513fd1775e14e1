"""The model for Label Studio: replace the body of `predict` with your own code."""

from lsml_bento import LabelStudioMLBase, ModelResponse, PredictionValue


class NewModel(LabelStudioMLBase):
    """Picks the choice whose name occurs in the text, else the first one."""

    def setup(self):
        """Runs once per project; every prediction shows the version that it sets."""
        self.set("model_version", "new-model-1")

    def predict(self, tasks, context=None, **kwargs):
        """Return one prediction per task, in the order of the tasks.

        Args:
            tasks: a list of {"id": ..., "data": {...}} of one project.
            context: {"result": [region, ...]} if an annotator is waiting, else None.
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
