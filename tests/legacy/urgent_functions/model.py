from label_studio_ml.model import predict_fn, update_fn

WORDS = {'now', 'asap', 'urgent'}


@predict_fn
def mark_urgent(tasks, context, helper, **kwargs):
    from_name, to_name, value = helper.label_interface.get_first_tag_occurence('Labels', 'Text')
    predictions = []
    for task in tasks:
        text = task['data'][value]
        result = []
        start = 0
        for word in text.split(' '):
            if word.strip('.,!').lower() in WORDS:
                result.append({
                    'from_name': from_name, 'to_name': to_name, 'type': 'labels',
                    'value': {'start': start, 'end': start + len(word), 'text': word, 'labels': ['Urgent']},
                })
            start += len(word) + 1
        predictions.append({'result': result, 'score': 1.0})
    return predictions


@update_fn
def learn_words(event, data, helper, **kwargs):
    for region in data['annotation']['result']:
        WORDS.add(region['value']['text'].lower())
    helper.set('model_version', f'words-{len(WORDS)}')
    return {'words': len(WORDS)}
