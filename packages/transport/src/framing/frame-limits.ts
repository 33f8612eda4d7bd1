/** Limits of one frame. Each limit is checked before anything is allocated. */
export interface FrameLimits {
  /** Bytes of a frame's header. Default: 1 MiB. */
  readonly maximumHeaderBytes: number;
  /** Bytes of a frame's payload. Default: 16 MiB. */
  readonly maximumPayloadBytes: number;
  /** Page runs in one frame. Default: 65 536. */
  readonly maximumRuns: number;
}

/** The limits of a reader before the handshake sets others. */
export const DEFAULT_FRAME_LIMITS: FrameLimits = {
  maximumHeaderBytes: 2 ** 20,
  maximumPayloadBytes: 16 * 2 ** 20,
  maximumRuns: 65_536,
};
