"""The screens of `torrelque top`: all queues, a queue's tasks, a task, and the dialogs."""
