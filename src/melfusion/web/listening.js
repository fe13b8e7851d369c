const $ = id => document.getElementById(id), all = what => [...document.querySelectorAll(what)];
const study = document.body.dataset.study, store = 'melfusion-listening-' + study, state = {listener: '', answers: {}};
const say = words => { $('said').textContent = words };
const done = id => ['ovl', 'rel'].every(scale => scale in (state.answers[id] || {}));
try { Object.assign(state, JSON.parse(localStorage.getItem(store))) } catch {}
function keep() { try { localStorage.setItem(store, JSON.stringify(state)) } catch {} show() }
function show() {
  for (const slider of all('input[type=range]')) {
    const value = (state.answers[slider.dataset.id] || {})[slider.name], words = value === undefined ? 'not set' : value + ' of 100';
    slider.value = value ?? 50;
    slider.classList.toggle('unset', value === undefined);
    slider.setAttribute('aria-valuetext', words);
    slider.parentNode.querySelector('output').textContent = words;
  }
  for (const clip of all('article')) {
    clip.classList.toggle('done', done(clip.dataset.id));
    clip.querySelector('.mark').textContent = done(clip.dataset.id) ? '✓ answered' : '';
  }
  const n = all('article.done').length;
  $('progress').value = n;
  $('count').textContent = n + ' of ' + all('article').length + ' answered';
}
for (const slider of all('input[type=range]')) {
  let before;
  const put = () => { (state.answers[slider.dataset.id] ??= {})[slider.name] = +slider.value; say(''); keep() };
  slider.addEventListener('input', put);
  slider.addEventListener('click', put);  // on the hollow knob at 50, which is no input
  slider.addEventListener('pointerdown', () => { before = JSON.stringify(state.answers) });
  slider.addEventListener('pointercancel', () => { state.answers = JSON.parse(before); keep() });  // the touch became a scroll
}
$('listener').value = state.listener;
$('listener').addEventListener('input', () => { state.listener = $('listener').value; say(''); keep() });
document.addEventListener('play', event => all('audio').forEach(audio => audio === event.target || audio.pause()), true);
$('save').addEventListener('click', () => {
  const listener = state.listener.trim(), clips = all('article').map(clip => clip.dataset.id);
  const answers = clips.filter(done).map(id => ({id, ovl: state.answers[id].ovl, rel: state.answers[id].rel}));
  if (!listener) { $('listener').focus(); return say('Please enter your name or id first.') }
  if (!answers.length) return say('No clip is answered yet: move both sliders of a clip.');
  const sheet = {version: 1, study, listener, saved: new Date().toISOString(), answers}, link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([JSON.stringify(sheet, null, 1)], {type: 'application/json'}));
  link.download = 'answers-' + listener.replace(/[^\p{L}\p{N}_-]+/gu, '-') + '.json';
  link.click();
  say('Saved ' + answers.length + ' of ' + clips.length + ' clips as ' + link.download + '. Please send this file back.');
});
$('next').addEventListener('click', () => {
  if (!confirm('Forget the answers on this page? Save them first.')) return;
  state.answers = {}; state.listener = $('listener').value = ''; say(''); keep(); scrollTo(0, 0);
});
show();
