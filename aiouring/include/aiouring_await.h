/* What awaitables of ours need of C.
 *
 * am_send: `await` then gets a result without a StopIteration that carries it. Cython fills the slot for its own coroutines alone, so the class
 * says at import which function is its own.
 */
#ifndef AIOURING_AWAIT_H
#define AIOURING_AWAIT_H

#include <Python.h>
#include <string.h>

/* Called at import, before there is an object of the type; the type has an __await__, and so the table that the slot is in. */
static inline void aiouring_set_send(PyObject *type, int (*send)(PyObject *, PyObject *, PyObject **))
{
    ((PyTypeObject *)type)->tp_as_async->am_send = (sendfunc)send;
}

/* What such a function returns; the numbers of PySendResult. An error is -1, as in every other function. */
enum { AIOURING_RETURN = PYGEN_RETURN, AIOURING_NEXT = PYGEN_NEXT };

/* Whether a done-callback is the one by which asyncio's native task waits. */
static inline int aiouring_is_task_wakeup(PyObject *callback)
{
    static const PyMethodDef *task_wakeup;
    const PyMethodDef *method;

    if (!PyCFunction_CheckExact(callback))
        return 0;
    method = ((PyCFunctionObject *)callback)->m_ml;
    if (task_wakeup == NULL && strcmp(method->ml_name, "task_wakeup") == 0)
        task_wakeup = method;
    return method == task_wakeup;
}

#endif
