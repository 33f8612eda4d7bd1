import { ArgumentError } from '../command/argument-error.js';
import type { NamedSimulation } from './simulation-report.js';

/** The size of the picture, in pixels. */
const SIZE = { width: 960, height: 480 } as const;

/** The points of a curve. */
type Points = [seconds: number, value: number][];

/**
 * Draws simulations as SVG: over time, the bytes that are still to be sent, the rounds (a mark at the end of each), the pause (a
 * band) and the throttle. The drawing library is loaded only here.
 */
export async function simulationPlot(all: readonly NamedSimulation[]): Promise<string> {
  const [core, { LineChart }, components, { SVGRenderer }] = await Promise.all([
    import('echarts/core'),
    import('echarts/charts'),
    import('echarts/components'),
    import('echarts/renderers'),
  ]).catch((error: unknown) => {
    throw new ArgumentError(
      `--plot needs the optional package echarts: npm install echarts (${(error as Error).message})`,
    );
  });
  const { GridComponent, LegendComponent, MarkAreaComponent, TitleComponent } = components;
  core.use([LineChart, GridComponent, LegendComponent, MarkAreaComponent, TitleComponent, SVGRenderer]);
  const chart = core.init(null, null, { renderer: 'svg', ssr: true, ...SIZE });
  try {
    chart.setOption(optionsOf(all));
    return `${chart.renderToSVGString()}\n`;
  } finally {
    chart.dispose();
  }
}

function optionsOf(all: readonly NamedSimulation[]) {
  const throttled = all.some(({ simulation }) => simulation.throttle.some(({ fraction }) => fraction > 0));
  return {
    animation: false,
    title: { text: 'Owed RAM over time', left: 'center' },
    legend: { top: 30 },
    grid: { left: 70, right: 70, top: 70, bottom: 50 },
    xAxis: { type: 'value', name: 'seconds', nameLocation: 'middle', nameGap: 30 },
    yAxis: [
      { type: 'value', name: 'GiB owed', min: 0 },
      { type: 'value', name: 'throttle, %', min: 0, max: 100, show: throttled, splitLine: { show: false } },
    ],
    series: all.flatMap((one) => seriesOf(one, throttled)),
  };
}

function seriesOf({ name = 'default policy', simulation }: NamedSimulation, throttled: boolean): object[] {
  const { owed, throttle, pauses, totalMs } = simulation;
  const points: Points = owed.map(({ ms, bytes }) => [ms / 1000, bytes / 2 ** 30]);
  const bands = pauses.map(({ fromMs, toMs }) => [{ xAxis: fromMs / 1000 }, { xAxis: toMs / 1000 }]);
  const line = {
    type: 'line',
    name,
    data: points,
    symbolSize: 5,
    markArea: { silent: true, itemStyle: { color: '#d33', opacity: 0.35 }, data: bands },
  };
  if (!throttled) return [line];
  const held: Points = throttle.map(({ ms, fraction }) => [ms / 1000, fraction * 100]);
  held.push([totalMs / 1000, held.at(-1)?.[1] ?? 0]);
  return [
    line,
    {
      type: 'line',
      name: `${name}: throttle`,
      yAxisIndex: 1,
      step: 'end',
      symbol: 'none',
      data: held,
      lineStyle: { type: 'dashed' },
    },
  ];
}
