/**
 * `@godwit/core/simulation`: migrations under a virtual clock, with the engine itself.
 *
 * @module @godwit/core/simulation
 */
export type { OwedAt, SimulatedPause } from './observed.js';
export { Random } from './random.js';
export type { RunOptions, SimulatedMigrateOptions, SimulatedOutcome, SimulatedRun } from './run-scenario.js';
export {
  DEFAULT_DEVICES,
  DEFAULT_HOST,
  type DeviceScenario,
  type EncodingScenario,
  type HostScenario,
  type LinkChange,
  type LinkScenario,
  type MemoryScenario,
  type Scenario,
} from './scenario.js';
export { type SimulateOptions, type Simulation, simulate } from './simulate.js';
export type { SimulatedPostcopy } from './simulated-faults.js';
export type { Suggestion } from './suggest.js';
export { VirtualClock } from './virtual-clock.js';
export { partsOfCurve, type WorkingSetPart } from './workload/curve.js';
export { traceFromJsonLines } from './workload/trace.js';
export type { TraceEntry, Workload, WriteRate } from './workload/workload.js';
