/*
 * Keyspaces of mode `tunable` while a bucket moves from the owners 0, 1, 2 to the owners 0, 1, 3 in four stages: QUORUM
 * writes and QUORUM reads that settle, one key.
 *
 * Requests travel as in quorum.pml: each reaches its replica at any later moment or never, also after its operation
 * ended. A coordinator works by any stage published so far, however old. A request that was refused by a fence is not
 * sent again: a new attempt is another operation.
 *
 * Rules that can be taken away, each by a macro: see README.md beside this file.
 */

#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef READERS
#define READERS 2
#endif

#define REPLICAS 4
#define ABSENT 9        /* the fence of a replica that does not hold the bucket */
#define BIT(r) (1 << (r))
#define IN(set, r) (((set) >> (r)) & 1)
#define TWO_OF(a, b, c) ((a) + (b) + (c) >= 2)
#define OF_OLD(set) TWO_OF(IN(set, 0), IN(set, 1), IN(set, 2))
#define OF_NEW(set) TWO_OF(IN(set, 0), IN(set, 1), IN(set, 3))

#define OLD 0
#define WRITE_BOTH_READ_OLD 1
#define WRITE_BOTH_READ_NEW 2
#define NEW 3

#define WRITE_NEEDS(s, set) ((s == NEW || OF_OLD(set)) && (s == OLD || OF_NEW(set)))
#define READ_NEEDS(s, set) ((s <= WRITE_BOTH_READ_OLD && OF_OLD(set)) || (s >= WRITE_BOTH_READ_NEW && OF_NEW(set)))
#define WRITES_TO(s, r) ((r < 2) || (r == 2 && s != NEW) || (r == 3 && s != OLD))
#define READS_FROM(s, r) ((r < 2) || (r == 2 && s <= WRITE_BOTH_READ_OLD) || (r == 3 && s >= WRITE_BOTH_READ_NEW))

byte version[REPLICAS];
byte fence[REPLICAS];
byte stage;             /* the newest that was published */

/* What clients were told so far. */
byte acknowledged;      /* the highest version whose write was answered OK */
byte returned;          /* the highest version that a read has answered */

byte readers_started;
byte readers_ended;
#ifdef SHOW_THAT_ALL_CAN_SUCCEED
byte writers_ended;
#endif

#define ADMITS(r, s) (fence[r] <= s)

inline keep_newest(at, what) {
    if
    :: at < what -> at = what
    :: else
    fi
}

inline take_a_stage(known) {
    do
    :: known < stage -> known++
    :: break
    od
}

#define WRITE_ARRIVES(r) \
    :: atomic { (sent & BIT(r)) && ADMITS(r, s) -> \
           sent = sent ^ BIT(r); \
           keep_newest(version[r], mine); \
           if \
           :: !done -> acks = acks | BIT(r) \
           :: else \
           fi; \
           printf("writer of v%d, stage %d: replica %d: version now %d; acknowledged by set %d\n", \
                  mine, s, r, version[r], acks) \
       }

proctype Writer(byte mine) {
    byte s, sent, acks;
    bool done;

    atomic {
        take_a_stage(s);
        sent = 3;
        if
        :: s != NEW -> sent = sent | 4
        :: else
        fi;
        if
        :: s != OLD -> sent = sent | 8
        :: else
        fi;
        printf("writer of v%d starts at stage %d\n", mine, s)
    }
end:
    do
    WRITE_ARRIVES(0)
    WRITE_ARRIVES(1)
    WRITE_ARRIVES(2)
    WRITE_ARRIVES(3)
    :: atomic { !done && WRITE_NEEDS(s, acks) ->
           done = true;
           acks = 0;
           keep_newest(acknowledged, mine);
#ifdef SHOW_THAT_ALL_CAN_SUCCEED
           writers_ended++;
#endif
           printf("writer of v%d: OK\n", mine)
       }
    od
}

#define READ_ARRIVES(r) \
    :: atomic { !(read & BIT(r)) && READS_FROM(s, r) && ADMITS(r, s) -> \
           read = read | BIT(r); \
           if \
           :: version[r] > best -> best = version[r]; have = BIT(r) \
           :: version[r] == best -> have = have | BIT(r) \
           :: else \
           fi; \
           printf("reader %d, stage %d: replica %d: version %d\n", me, s, r, version[r]) \
       }

#define REPAIR_ARRIVES(r) \
    :: atomic { !(have & BIT(r)) && WRITES_TO(s, r) && ADMITS(r, s) -> \
           keep_newest(version[r], best); \
           have = have | BIT(r); \
           printf("reader %d, stage %d: repairs replica %d: version now %d\n", me, s, r, version[r]) \
       }

#ifdef WRITE_BACK_TO_THOSE_READ
#define SETTLED READ_NEEDS(s, have)
#else
#define SETTLED WRITE_NEEDS(s, have)
#endif

proctype Reader(byte me) {
    byte s, read, best, have, told, seen;

end:
    atomic {
#ifdef READERS_IN_TURN
        readers_ended == me - 1;
#else
        readers_started == me - 1;          /* they are alike: who is the first makes no difference */
#endif
        readers_started = me;
        take_a_stage(s);
        told = acknowledged;
        seen = returned;
        printf("reader %d starts at stage %d\n", me, s)
    }
end_gathering:
    do
    READ_ARRIVES(0)
    READ_ARRIVES(1)
    READ_ARRIVES(2)
    READ_ARRIVES(3)
    :: atomic { READ_NEEDS(s, read) -> read = 0; break }
    od;
#ifndef NO_WRITE_BACK
end_settling:
    do
    REPAIR_ARRIVES(0)
    REPAIR_ARRIVES(1)
    REPAIR_ARRIVES(2)
    REPAIR_ARRIVES(3)
    :: atomic { SETTLED -> break }
    od;
#endif
    atomic {
        printf("reader %d answers v%d\n", me, best);
        assert(best >= told);               /* no acknowledged write is missed */
        assert(best >= seen);               /* no read goes back behind an earlier one */
        keep_newest(returned, best);
        readers_ended++;
#ifdef SHOW_THAT_ALL_CAN_SUCCEED
        assert(!(writers_ended == WRITERS && readers_ended == READERS && s == NEW));
#endif
        s = 0; best = 0; have = 0; told = 0; seen = 0
    }
}

#define RAISE(r) \
    :: atomic { fence[r] < to && fence[r] != ABSENT -> \
           fence[r] = to; \
           printf("mover: replica %d fenced for stage %d\n", r, to) \
       }
#define FENCED(r) (fence[r] >= to && fence[r] != ABSENT)

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
    :: TWO_OF(FENCED(0), FENCED(1), FENCED(2)) && TWO_OF(FENCED(0), FENCED(1), FENCED(3)) -> break
    od
#endif
}

#ifdef NO_FENCE
#define MAY_COPY(r) true
#else
#define MAY_COPY(r) FENCED(r)
#endif

#ifdef SINGLE_COPY_SOURCE
#define ENOUGH_COPIED (got != 0)
#else
#define ENOUGH_COPIED OF_OLD(got)
#endif

#define COPY_FROM(r) \
    :: atomic { !(got & BIT(r)) && MAY_COPY(r) -> \
           got = got | BIT(r); \
           keep_newest(best, version[r]); \
           printf("mover: replica %d: version %d\n", r, version[r]) \
       }
#define COPY_TO(r) \
    :: atomic { !(got & BIT(r)) -> \
           got = got | BIT(r); \
           keep_newest(version[r], best); \
           printf("mover: copies to replica %d: version now %d\n", r, version[r]) \
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
    :: atomic { OF_NEW(got) -> got = 0; best = 0; break }
    od
}

proctype Mover() {
    byte to, got, best;

#ifndef ONE_STEP
    publish(WRITE_BOTH_READ_OLD);
    atomic { fence[3] = WRITE_BOTH_READ_OLD; printf("mover: fence created on replica 3\n") }
#ifdef COPY_BEFORE_FENCE
    atomic { to = 0; copy() };
#endif
    fence_for(WRITE_BOTH_READ_OLD);
#ifndef COPY_BEFORE_FENCE
    copy();
#endif
    publish(WRITE_BOTH_READ_NEW);
    fence_for(WRITE_BOTH_READ_NEW);
    publish(NEW)
#else
    publish(NEW);
    atomic { fence[3] = NEW; printf("mover: fence created on replica 3\n") }
    fence_for(NEW);
    copy()
#endif
}

init {
    byte i;
    atomic {
        fence[3] = ABSENT;
        i = 1;
        do
        :: i <= WRITERS -> run Writer(i); i++
        :: else -> break
        od;
        i = 1;
        do
        :: i <= READERS -> run Reader(i); i++
        :: else -> break
        od;
        i = 0;
        run Mover()
    }
}
