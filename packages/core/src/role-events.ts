import { Observable, type Observer, type Operator, Subject, Subscriber, type Subscription } from 'rxjs';

type Next<E> = (value: E) => void;

/**
 * An Observable that isolates its subscribers: an exception in a subscriber, or an error of its pipeline without a handler, reaches
 * neither the process nor the observed work. It goes to `onFailure`, once for each subscriber.
 */
class QuietObservable<E> extends Observable<E> {
  readonly #onFailure: (error: unknown) => void;

  constructor(
    subscribe: ((subscriber: Subscriber<E>) => Subscription) | undefined,
    onFailure: (error: unknown) => void,
  ) {
    super(subscribe);
    this.#onFailure = onFailure;
  }

  /**
   * Makes an operator's Observable of this class too, so that the result of `pipe` isolates its subscribers; RxJS calls `lift` for
   * every operator.
   */
  override lift<R>(operator?: Operator<E, R>): Observable<R> {
    const lifted = new QuietObservable<R>(undefined, this.#onFailure);
    lifted.source = this;
    lifted.operator = operator;
    return lifted;
  }

  /** Observes the events. An exception in an observer reaches neither the engine nor the guest; unsubscribing ends nothing. */
  override subscribe(observerOrNext?: Partial<Observer<E>> | Next<E>): Subscription;
  override subscribe(next?: Next<E> | null, error?: Next<unknown> | null, complete?: (() => void) | null): Subscription;
  override subscribe(
    observer?: Partial<Observer<E>> | Next<E> | null,
    error?: Next<unknown> | null,
    complete?: (() => void) | null,
  ): Subscription {
    // An operator's own subscriber passes errors on by itself.
    if (observer instanceof Subscriber) return super.subscribe(observer);
    const given: {
      next?: Next<E> | undefined;
      error?: Next<unknown> | undefined;
      complete?: (() => void) | undefined;
    } =
      typeof observer === 'function' || observer === null || observer === undefined
        ? { next: observer ?? undefined, error: error ?? undefined, complete: complete ?? undefined }
        : observer;
    let reported = false;
    const failed = (failure: unknown): void => {
      if (reported) return;
      reported = true;
      this.#onFailure(failure);
    };
    const quietly = (call: () => void): void => {
      try {
        call();
      } catch (failure) {
        failed(failure);
      }
    };
    return super.subscribe({
      next: (value) => quietly(() => given.next?.(value)),
      error: (failure) => (given.error === undefined ? failed(failure) : quietly(() => given.error?.(failure))),
      complete: () => quietly(() => given.complete?.()),
    });
  }
}

/**
 * The events of a role. Observing never controls: unsubscribing ends nothing, the stream never ends with an error (a failure is its
 * last event, and then it completes), and an exception in a subscriber is reported to the others as a warning.
 *
 * Events are not replayed; a subscriber that comes after the start gets the present status first.
 */
export abstract class RoleEvents<E> extends QuietObservable<E> {
  /** @internal */
  protected readonly events: Subject<E>;

  /**
   * @param late returns the first event of a late subscriber, with the present status; `undefined` before the start
   * @param onFailure called with the exceptions of subscribers
   */
  constructor(late: () => E | undefined, onFailure: (error: unknown) => void) {
    const events = new Subject<E>();
    super((subscriber) => {
      const present = late();
      if (present !== undefined) subscriber.next(present);
      return events.subscribe(subscriber);
    }, onFailure);
    this.events = events;
  }
}
