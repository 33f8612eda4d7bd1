/** The purposes that a host may be checked for. */
export const PURPOSES = {
  move: 'see what a guest writes, by this process too, and move its memory',
  kvm: 'run guests on /dev/kvm, and see what they write',
  'at-once': 'run a guest before its memory is whole',
  vfio: 'move assigned devices and what their DMA writes',
  'huge-pages': 'guest memory in huge pages',
} as const;

export type Purpose = keyof typeof PURPOSES;
