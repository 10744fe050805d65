/*
 * The mover of register.pml: the old owners hand over to the new ones. A published stage may be used by coordinators at any
 * later moment, or never; a fence holds from the moment it was raised.
 */

#define MOVER (CLIENTS + SPARE)

#define RAISE(r) \
    :: atomic { OWNS(r) && fence[r] < to && fence[r] != ABSENT -> \
           fence[r] = to; \
           printf("mover: acceptor %d fenced for stage %d\n", r, to) \
       }
#define FENCED(r) (fence[r] >= to && fence[r] != ABSENT)
#define OLD_FENCED OLD_MAJORITY(FENCED(0), FENCED(1), FENCED(2))
#define NEW_FENCED NEW_MAJORITY(FENCED(0), FENCED(1), FENCED(3))

inline publish(s) {
    atomic { stage = s; printf("mover: stage %d published\n", s) }
}

/* On majorities of the old and of the new owners; that is all that is waited for. */
inline fence_for(s) {
    to = s;
#ifndef NO_FENCE
    do
    RAISE(0)
    RAISE(1)
    RAISE(2)
    RAISE(3)
    :: OLD_FENCED && NEW_FENCED -> break
    od;
#endif
}

#define COPY_FROM(r) \
    :: atomic { OWNS(r) && !(got & BIT(r)) && (FENCED(r) || UNFENCED_COPY) -> \
           got = got | BIT(r); \
           if \
           :: accepted[r] > best -> best = accepted[r]; list = value[r] \
           :: else \
           fi; \
           printf("mover: copies list %d of ballot %d from acceptor %d\n", value[r], accepted[r], r) \
       }

#ifdef NO_FENCE
#define UNFENCED_COPY true
#else
#define UNFENCED_COPY false
#endif

#ifdef SINGLE_COPY_SOURCE
#define ENOUGH_COPIED (got != 0)
#else
#define ENOUGH_COPIED OF_OLD(got)
#endif

#define COPY_TO(r) \
    :: atomic { OWNS(r) && !(got & BIT(r)) -> \
           got = got | BIT(r); \
           if \
           :: accepted[r] < best -> \
               accepted[r] = best; \
               value[r] = list; \
               if \
               :: promised[r] < best -> promised[r] = best \
               :: else \
               fi \
           :: else \
           fi; \
           printf("mover: acceptor %d has now list %d of ballot %d\n", r, value[r], accepted[r]) \
       }

inline copy() {
    do
    COPY_FROM(0)
    COPY_FROM(1)
    COPY_FROM(2)
    :: atomic { ENOUGH_COPIED -> got = 0; break }
    od;
    do
    COPY_TO(0)
    COPY_TO(1)
    COPY_TO(3)
    :: atomic { OF_NEW(got) -> got = 0; best = 0; list = 0; break }
    od
}

/* The same as a client's, without a change. */
inline identity_change() {
    ballot = MOVER;
    if
    :: skip
    :: ATTEMPTS > 1 -> ballot = MOVER + CLIENTS + SPARE
    fi;
end_identity:
    do
    PREPARE_ARRIVES(0)
    PREPARE_ARRIVES(1)
    PREPARE_ARRIVES(2)
    PREPARE_ARRIVES(3)
    :: atomic { WRITE_NEEDS(s, got) ->
           proposal[ballot] = list;
           stage_of[ballot] = s;
           sent[ballot] = true;
           got = 0; best = 0; list = 0;
           printf("mover: asks to accept list %d at ballot %d\n", proposal[ballot], ballot);
           break
       }
    od;
end_accept_identity:
    WRITE_NEEDS(s, votes[ballot])
}

proctype Mover() {
    byte to, got, best, list, ballot, s;
    byte me = MOVER;

#ifndef ONE_STEP
    publish(WRITE_BOTH_READ_OLD);
    atomic { fence[3] = WRITE_BOTH_READ_OLD; printf("mover: fence created on acceptor 3\n") }
    fence_for(WRITE_BOTH_READ_OLD);
    copy();
    publish(WRITE_BOTH_READ_NEW);
    fence_for(WRITE_BOTH_READ_NEW);
#ifndef NO_IDENTITY_CHANGE
    s = WRITE_BOTH_READ_NEW;
    identity_change();
#endif
    publish(NEW)
#else
    publish(NEW);
    atomic { fence[3] = NEW; printf("mover: fence created on acceptor 3\n") }
    fence_for(NEW);
    copy()
#endif
}
