/* Calls into user code from completions and ready queues. In C because Cython's try statement saves and restores the exception state at
 * every pass, also when nothing is raised: here the caller looks for NULL or -1, and only then goes the long way.
 */
#ifndef AIOURING_CALL_H
#define AIOURING_CALL_H

#include <Python.h>

static inline int aiouring_result(PyObject *context, PyObject *result)
{
    if (PyContext_Exit(context) < 0 || result == NULL) {
        Py_XDECREF(result);
        return -1;
    }
    Py_DECREF(result);
    return 0;
}

/* callback(*args) in a context. -1: an exception is set. */
static inline int aiouring_call(PyObject *context, PyObject *callback, PyObject *args)
{
    if (PyContext_Enter(context) < 0)
        return -1;
    return aiouring_result(context, PyObject_Call(callback, args, NULL));
}

/* object.name(argument) in a context. -1: an exception is set. */
static inline int aiouring_call_method(PyObject *context, PyObject *object, PyObject *name, PyObject *argument)
{
    if (PyContext_Enter(context) < 0)
        return -1;
    return aiouring_result(context, PyObject_CallMethodOneArg(object, name, argument));
}

/* For a try statement around the exception that one of the above has set. */
static inline int aiouring_raise_pending(void)
{
    return -1;
}

#endif
