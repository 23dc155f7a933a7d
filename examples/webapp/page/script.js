// The page keeps the ids and names of its tasks in the browser; all else comes from the queue, so it survives a reload.

const list = document.querySelector('#tasks');
const trouble = document.querySelector('#trouble');
const cards = new Map();
let tasks = JSON.parse(localStorage.getItem('tasks') ?? '[]');
let source = null;

const hasEnded = (state) => ['COMPLETED', 'REJECTED'].includes(state?.status);
const seconds = (number) => `${number.toFixed(number < 10 ? 1 : 0)} s`;

function keep(changed) {
  tasks = changed;
  localStorage.setItem('tasks', JSON.stringify(tasks));
  tidy();
}

function tidy() {
  document.querySelector('#empty').hidden = tasks.length > 0;
  document.querySelector('#clear').hidden = !tasks.some(({ id }) => hasEnded(cards.get(id)?.state));
}

function show({ id, name }) {
  const element = document.querySelector('#task').content.cloneNode(true).firstElementChild;
  element.dataset.id = id;
  element.querySelector('h2').textContent = name;
  list.prepend(element);
  cards.set(id, { element, state: null, due: null });
}

function forget(id) {
  cards.get(id)?.element.remove();
  cards.delete(id);
  keep(tasks.filter((task) => task.id !== id));
}

// What the queue says -----------------------------------------------------------------------------------------------

function listen() {
  source?.close();
  const open = tasks.filter(({ id }) => !hasEnded(cards.get(id).state)).slice(-100);
  if (open.length === 0) return;
  source = new EventSource(`/events?${new URLSearchParams(open.map(({ id }) => ['id', id]))}`);
  source.onopen = () => complain('');
  source.onerror = () => {
    complain('The connection is lost, trying again…');
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 3000); // else the browser does it by itself
  };
  source.onmessage = ({ data }) => {
    const state = JSON.parse(data);
    if (state.status === 'UNKNOWN') forget(state.id);
    else draw(state);
    tidy();
    if (tasks.every(({ id }) => hasEnded(cards.get(id).state))) source.close();
  };
}

function draw(state) {
  const card = cards.get(state.id);
  if (!card) return;
  card.state = state;
  card.due = state.wait === null ? null : performance.now() + state.wait * 1000;
  card.element.dataset.status = state.status;
  card.element.dataset.attempt = state.attempt;
  drawAttempts(card);
  card.element.querySelector('.detail').textContent = {
    COMPLETED: `Ready: ${state.result}`,
    REJECTED: `Given up after ${state.attempt} attempts. ${state.reason}`,
  }[state.status] ?? '';
  tick(card);
}

// A dot for each attempt, and between them the pauses, as long as they are to each other.
function drawAttempts({ element, state }) {
  const parts = [];
  const failed = state.delays.length;
  for (const [index, delay] of state.delays.entries()) {
    parts.push(part('attempt', 'failed', `Attempt ${index + 1} failed`));
    if (delay === null) continue;
    const isLast = index === failed - 1;
    const pause = part('pause', isLast && state.status === 'DELAYED' ? 'running' : '', `A pause of ${delay} s`);
    pause.style.flexGrow = delay;
    pause.dataset.seconds = `${delay} s`;
    parts.push(pause);
  }
  if (state.status === 'COMPLETED') parts.push(part('attempt', 'done', `Attempt ${failed + 1} succeeded`));
  else if (state.status === 'WORKING') parts.push(part('attempt', 'running', `Attempt ${failed + 1} runs`));
  else if (state.status !== 'REJECTED') parts.push(part('attempt', 'next', `Attempt ${failed + 1} is to come`));
  element.querySelector('.attempts').replaceChildren(...parts);
}

function part(kind, stage, description) {
  const element = document.createElement('li');
  element.className = `${kind} ${stage}`;
  element.title = description;
  return element;
}

// Countdowns --------------------------------------------------------------------------------------------------------

function tick({ element, state, due }) {
  const left = due === null ? null : Math.max(0, (due - performance.now()) / 1000);
  const text = {
    PENDING: 'Waiting for a worker',
    WORKING: `Attempt ${state.attempt} runs`,
    DELAYED: `Attempt ${state.attempt} failed, next ${left ? `in ${seconds(left)}` : 'is due'}`,
    COMPLETED: state.attempt === 1 ? 'Done' : `Done at attempt ${state.attempt}`,
    REJECTED: 'Failed',
  }[state.status];
  const status = element.querySelector('.status');
  if (status.textContent !== text) status.textContent = text;
  const total = state.delays.at(-1);
  if (left !== null && total) {
    element.querySelector('.pause.running')?.style.setProperty('--passed', `${100 * (1 - Math.min(1, left / total))}%`);
  }
}

setInterval(() => {
  for (const card of cards.values()) if (card.due !== null) tick(card);
}, 100);

// What the user does ------------------------------------------------------------------------------------------------

function complain(text) {
  trouble.textContent = text;
  trouble.hidden = !text;
}

document.querySelector('#start').addEventListener('submit', async (event) => {
  event.preventDefault();
  const fields = new FormData(event.target);
  try {
    const response = await fetch('/tasks', { method: 'POST', body: new URLSearchParams(fields) });
    if (!response.ok) throw new Error(response.statusText);
    const { id } = await response.json();
    const task = { id, name: fields.get('name') };
    show(task);
    keep([...tasks, task]);
    listen();
    complain('');
  } catch (error) {
    complain(`The report could not be started: ${error.message}`);
  }
});

document.querySelector('#clear').addEventListener('click', () => {
  for (const [id, { state }] of [...cards]) if (hasEnded(state)) forget(id);
});

addEventListener('storage', () => location.reload()); // another tab has changed the list

tasks.forEach(show);
tidy();
listen();
