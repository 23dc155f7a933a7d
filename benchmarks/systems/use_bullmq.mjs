// BullMQ, on ioredis: its defaults, with 50 jobs at once, removed when complete. Bulks are its addBulk.
// Started as benchmarks.measure is, and prints the same line of JSON.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { performance } from 'node:perf_hooks';

const require = createRequire(process.cwd() + '/');
const { Queue, Worker } = require('bullmq');
const IORedis = require('ioredis');

const CALLERS = 50;
const WARM_UP = 300;
const WARM_UP_TASKS = 500;
const JOB = { removeOnComplete: true };
const [, , , , , row, url, settingsText] = process.argv;
const settings = JSON.parse(settingsText);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function makePayload(number = 0) {
  const bytes = JSON.stringify({ number, text: '' }).length + 2; // as Python writes it, with spaces
  return { number, text: 'x'.repeat(60 - bytes - 1) };
}

class Meter {
  constructor(client) {
    this.client = client;
  }

  async serverCpu() {
    const info = await this.client.info('cpu');
    const value = (name) => Number(new RegExp(`${name}:([\\d.]+)`).exec(info)[1]);
    return value('used_cpu_user') + value('used_cpu_sys');
  }

  async start() {
    this.server = await this.serverCpu();
    this.cpu = process.cpuUsage();
    this.time = performance.now();
  }

  async stop() {
    this.seconds = (performance.now() - this.time) / 1000;
    const cpu = process.cpuUsage(this.cpu);
    this.clientCpu = (cpu.user + cpu.system) / 1e6;
    this.serverCpuUsed = (await this.serverCpu()) - this.server;
  }

  result(tasks) {
    return {
      tasks,
      rate: tasks / this.seconds,
      client_us: (this.clientCpu / tasks) * 1e6,
      server_us: (this.serverCpuUsed / tasks) * 1e6,
    };
  }
}

const address = new URL(url);
const connection = { host: address.hostname, port: Number(address.port), maxRetriesPerRequest: null };
const queue = new Queue('bench', { connection });
const meter = new Meter(new IORedis(connection));

async function enqueue() {
  const task = makePayload();
  let done = 0;
  let stopped = false;
  const callers = Array.from({ length: CALLERS }, async () => {
    while (!stopped) {
      await queue.add('handle', task, JOB);
      done += 1;
    }
  });
  await sleep(WARM_UP);
  await meter.start();
  const before = done;
  await sleep(settings.seconds * 1000);
  const counted = done - before;
  await meter.stop();
  stopped = true;
  await Promise.all(callers);
  return meter.result(counted);
}

async function workOff() {
  for (let left = settings.backlog; left > 0; left -= 100) {
    await queue.addBulk(Array.from({ length: Math.min(100, left) }, () => ({ name: 'handle', data: makePayload(), opts: JOB })));
  }
  let started = 0;
  let warm;
  const ended = new Promise((resolve) => {
    const worker = new Worker(
      'bench',
      async () => {
        started += 1;
        if (started === WARM_UP_TASKS) warm = meter.start();
        if (started === settings.backlog) {
          await warm;
          resolve(meter.stop().then(() => worker));
        }
      },
      { connection, concurrency: CALLERS },
    );
  });
  await ended;
  return meter.result(settings.backlog - WARM_UP_TASKS);
}

async function handoff() {
  const called = new Map();
  const taken = [];
  let begun;
  const worker = new Worker(
    'bench',
    async (job) => {
      taken.push(performance.now() - called.get(job.data.number));
      begun();
    },
    { connection, concurrency: CALLERS },
  );
  await worker.waitUntilReady();
  await sleep(1000);
  await meter.start();
  for (let number = 0; number < settings.handoffs; number += 1) {
    const started = new Promise((resolve) => { begun = resolve; });
    called.set(number, performance.now());
    await queue.add('handle', makePayload(number), JOB);
    await started;
    await sleep(3 + Math.random() * 4);
  }
  await meter.stop();
  const kept = taken.slice(Math.floor(settings.handoffs / 10)).sort((a, b) => a - b);
  return { ...meter.result(settings.handoffs), latencies_ms: kept.map((ms) => Number(ms.toFixed(3))) };
}

const readVersion = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version;
const result = await { 'enqueue-single': enqueue, 'work-off': workOff, 'hand-off': handoff }[row]();
const versions = { node: process.versions.node };
for (const name of ['bullmq', 'ioredis']) versions[name] = readVersion(name);
console.log(JSON.stringify({ result, versions }));
process.exit(0);
