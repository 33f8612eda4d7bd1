/** An argument that cannot be understood; the message names it and says what is expected. */
export class ArgumentError extends Error {}
