import { Observable, Subject } from 'rxjs';

/**
 * The events of a role as an Observable that belongs to work under way: not replayed, and when the last subscriber
 * unsubscribes before the end, the work is cancelled. Having no subscriber at all cancels nothing.
 */
export abstract class RoleEvents<E> extends Observable<E> {
  /** @internal */
  protected readonly events: Subject<E>;

  constructor() {
    const events = new Subject<E>();
    let subscribers = 0;
    let cancel: () => void = () => {};
    super((subscriber) => {
      subscribers++;
      const subscription = events.subscribe(subscriber);
      return () => {
        subscription.unsubscribe();
        if (--subscribers === 0) cancel();
      };
    });
    cancel = () => void this.cancel('the last subscriber unsubscribed');
    this.events = events;
  }

  /** Gives up; returns whether that was still possible. */
  abstract cancel(reason?: string): boolean;
}
