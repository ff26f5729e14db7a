// The heatmap's colour scale: a value becomes one of a few levels, whose colours the style sheet has (per theme).

/** Levels of the scale; styles/colours.css has a colour for each. */
export const LEVELS = 12;

export interface Scale {
  min: number;
  max: number;
}

/** The scale of these values: the metric's own ends where its unit gives them, else the values' ends. */
export function scaleOf(values: number[], natural: [number, number] | null): Scale | null {
  if (natural) return { min: natural[0], max: natural[1] };
  let min = Number.POSITIVE_INFINITY;
  let max = Number.NEGATIVE_INFINITY;
  for (const value of values) {
    if (value < min) min = value;
    if (value > max) max = value;
  }
  return min <= max ? { min, max } : null;
}

/** The level of a value; where all values are equal, the middle one. */
export function level(value: number, scale: Scale): number {
  if (scale.max <= scale.min) return Math.floor(LEVELS / 2);
  const share = (value - scale.min) / (scale.max - scale.min);
  return Math.min(LEVELS - 1, Math.max(0, Math.floor(share * LEVELS)));
}
