/** The Linux host: guest memory, KVM, dirty logs, userfaultfd. Loads on Linux only. */
export * from '@godwit/linux';
