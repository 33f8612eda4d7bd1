import { presets, throttleToConverge, firstOpinion, withinDowntimeLimit } from '@godwit/core';
import { play } from '/work/h-policies/packages/core/dist-test/round-oracle.js';
function mul(seed){ let a = seed|0; return () => { a = (a + 0x6d2b79f5)|0; let t = Math.imul(a ^ (a>>>15), 1|a); t = (t + Math.imul(t ^ (t>>>7), 61|t)) ^ t; return ((t ^ (t>>>14))>>>0)/2**32; }; }
const random = mul(+process.argv[4] || 5);
const log = (a, b) => Math.exp(Math.log(a) + random() * (Math.log(b) - Math.log(a)));
const stat = {};
const N = +process.argv[2] || 300;
for (let i = 0; i < N; i++) {
  const link = Math.round(log(1000, 1e6));
  const pages = Math.round(link * log(0.5, 60));
  const workingSet = Math.max(1, Math.round(pages * log(0.01, 1)));
  const w = { link, pages, workingSet, writes: Math.round(link * log(0.1, 20)), order: random() < 0.5 ? 'random' : 'sweep',
    limitMs: Math.round(log(30, 1000)), fixedMs: 10, besideMs: Math.round(log(1,100)), budgetMs: Math.round((pages/link) * 1000 * log(2, 20) + 2000), noise: [0, 0.02, 0.05][i % 3], random };
  for (const p of ['balanced', 'urgent']) {
    w.random = mul(i);
    const o = play(w, presets[p], true);
    const st = (stat[p] ??= { n: 0, worst: 0, over: 0, could: 0, did: 0, ends: {} });
    st.n++; st.ends[o.end] = (st.ends[o.end] ?? 0) + 1;
    for (const t of o.throttled) { const d = t.fraction - t.needed; if (d > st.worst) { st.worst = d; } if (d > 0.1) { st.over++; if (st.over < 6) console.log('OVER', p, JSON.stringify({...w, random: undefined}), o.end, o.atMs, o.throttled.slice(0,30).map((t) => `${Math.round(t.atMs)}:${t.fraction}(${t.needed.toFixed(2)})`).join(' ')); } }
    const turns = o.throttled.filter((t, i, a) => i > 1 && (t.fraction - a[i-1].fraction) * (a[i-1].fraction - a[i-2].fraction) < 0).length; st.turns = Math.max(st.turns ?? 0, turns); st.flappy = (st.flappy ?? 0) + (turns > 4); if (turns > 4 && st.flappy < 4) console.log('FLAP', p, turns, JSON.stringify({...w, random: undefined}), o.end, o.atMs, o.throttled.slice(0,20).map((t) => `${Math.round(t.atMs)}:${t.fraction}(${t.needed.toFixed(2)})`).join(' '));
    if (o.throttled.length && o.throttled[0].needed <= (p === 'balanced' ? 0.78 : 0.97)) { st.could++; if (o.end === 'switchover') st.did++; else if (process.argv[3] && st.could - st.did < 6) console.log('MISS', p, JSON.stringify({...w, random: undefined}), o.end, o.atMs, o.throttled.slice(0,30).map((t) => `${Math.round(t.atMs)}:${t.fraction}(${t.needed.toFixed(2)})`).join(' ')); }
  }
}
console.log(JSON.stringify(stat, null, 1));
