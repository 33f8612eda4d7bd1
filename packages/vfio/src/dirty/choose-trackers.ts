import type { DirtyTracker, GuestMemory } from '@godwit/core';
import type { VfioDevice } from '../device/vfio-device.js';
import type { HardwarePagetable } from '../iommufd/hardware-pagetable.js';
import type { Ioas } from '../iommufd/ioas.js';
import { Type1Container } from '../type1/type1-container.js';
import { DmaLoggingTracker } from './dma-logging-tracker.js';
import { IommufdTracker } from './iommufd-tracker.js';
import { StoppedDeviceTracker } from './stopped-device-tracker.js';
import { VfioType1Tracker } from './type1-tracker.js';
import { UnseenDeviceTracker } from './unseen-device-tracker.js';

/** A device, and the container or page table that its DMA goes through. */
export interface TrackableDevice {
  readonly device: VfioDevice;
  readonly space: Type1Container | Ioas;
  /** The page table to which it is attached, when that can log. */
  readonly pagetable?: HardwarePagetable;
  /**
   * With false the device is not tracked while it runs, and everything that it can reach is sent after it was stopped, with the
   * downtime that this takes (QEMU: x-pre-copy-dirty-page-tracking=off): for a device that cannot be tracked, or whose tracker reports
   * every mapped page at every harvest, so that pre-copy would never end. Default true.
   */
  readonly trackDuringPrecopy?: boolean;
}

/** The tracker that was chosen for a device, and the reasons. */
export interface TrackerChoice {
  readonly device: VfioDevice;
  /** Several devices may share one. */
  readonly tracker: DirtyTracker;
  /** The reasons why no better tracker was chosen, for a log. */
  readonly passedOver: readonly string[];
}

/**
 * The best tracker for each device: its own log when it keeps one and the kernel can report it, else the IOMMU's dirty bits, else the
 * type1 container's log. Trackers of different kinds can be combined: the engine ORs their reports.
 *
 * @returns one choice for each device; give every tracker once to the engine (`trackersOf`) A device whose writes no tracker would see
 * has a tracker that blocks the migration with a reason.
 *
 * @throws GodwitError GODWIT_UNSUPPORTED for a device that is not to be tracked while it runs, and cannot migrate
 *
 * @example
 * const choices = await chooseTrackers(devices, memory);
 * for (const { device, passedOver } of choices) console.log(device.name, passedOver);
 * const trackers = [PagemapTracker.forMemory(memory), ...trackersOf(choices)];
 */
export async function chooseTrackers(
  devices: readonly TrackableDevice[],
  memory: GuestMemory,
): Promise<readonly TrackerChoice[]> {
  const trackers: DirtyTracker[] = [];
  const shared = new Map<object, DirtyTracker>();
  const once = (key: object, make: () => DirtyTracker): DirtyTracker => {
    const made = shared.get(key);
    if (made !== undefined) return made;
    const tracker = make();
    shared.set(key, tracker);
    trackers.push(tracker);
    return tracker;
  };
  /**
   * The first tracker of a kind has the kind's name, further ones a number after it, so that messages and statistics distinguish them.
   */
  const free = (name: string): string => {
    const taken = (wanted: string) => trackers.some((tracker) => tracker.name === wanted);
    if (!taken(name)) return name;
    let i = 2;
    while (taken(`${name}-${i}`)) i++;
    return `${name}-${i}`;
  };
  const choices: TrackerChoice[] = [];
  for (const { device, space, pagetable, trackDuringPrecopy = true } of devices) {
    const passedOver: string[] = [];
    if (!trackDuringPrecopy) {
      const tracker = new StoppedDeviceTracker(device, space, memory, free(`vfio-stopped ${device.name}`));
      trackers.push(tracker);
      choices.push({ device, tracker, passedOver: ['trackDuringPrecopy is false'] });
      continue;
    }
    const logging = await usableLogging(device, space, memory, free, passedOver);
    if (logging !== null) {
      trackers.push(logging);
      choices.push({ device, tracker: logging, passedOver });
    } else if (pagetable !== undefined) {
      choices.push({
        device,
        tracker: once(pagetable, () => new IommufdTracker(pagetable, memory, free('iommufd'))),
        passedOver,
      });
    } else if (space instanceof Type1Container && space.info.dirtyTracking !== null) {
      const make = () => new VfioType1Tracker(space, memory, free('vfio-type1'));
      choices.push({ device, tracker: once(space, make), passedOver });
    } else {
      const tracker = new UnseenDeviceTracker(free(`vfio-unseen ${device.name}`), unseen(device, passedOver));
      trackers.push(tracker);
      choices.push({ device, tracker, passedOver });
    }
  }
  return choices;
}

/**
 * The trackers of all choices, each once.
 *
 * @example
 * const choices = await chooseTrackers([{ device, space: container }], memory);
 * const trackers = [kvmTracker, ...trackersOf(choices)];
 */
export function trackersOf(choices: readonly TrackerChoice[]): readonly DirtyTracker[] {
  return [...new Set(choices.map(({ tracker }) => tracker))];
}

/** Tries whether a device can log, including a report: a successful start does not prove that reports work. */
async function usableLogging(
  device: VfioDevice,
  space: Type1Container | Ioas,
  memory: GuestMemory,
  free: (name: string) => string,
  passedOver: string[],
): Promise<DirtyTracker | null> {
  if (!DmaLoggingTracker.supports(device)) {
    passedOver.push(`${device.name} does not log its own DMA`);
    return null;
  }
  const tracker = new DmaLoggingTracker(device, space, memory, free(`vfio-dma-log ${device.name}`));
  try {
    await tracker.start();
    await tracker.stop();
    return tracker;
  } catch (error) {
    passedOver.push(error instanceof Error ? error.message : String(error));
    return null;
  }
}

function unseen(device: VfioDevice, passedOver: readonly string[]): string {
  return (
    `nobody would see what ${device.name} writes: ${passedOver.join('; ')}; it is behind no page table that logs, and in no ` +
    'container that tracks. Unplug it for the migration, or choose its tracker with trackDuringPrecopy: false'
  );
}
