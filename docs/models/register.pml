/*
 * Keyspaces of mode `linearizable`: one key, a register in the manner of CASPaxos, standing still or, with MOVE, while
 * its bucket moves in four stages: from owner 0 to owner 3.
 *
 * The value is the list of the changes that made it, as digits of base 4, the latest last; so a value tells its history.
 * What clients are told must be one chain of such lists, and every answer must continue what was told before its
 * operation began: that is linearizability of this register.
 *
 * Messages reach an acceptor at any later moment or never; an accept that is under way stays so after its coordinator
 * has gone on or given up. A coordinator may abandon an attempt at any moment and begin the next with a higher ballot.
 *
 * Rules that can be taken away, each by a macro: see README.md beside this file.
 */

/* The operations: 1 and 2 append themselves; a compare-and-set appends itself to the empty list only. */
#ifndef APPENDS
#define APPENDS 2
#endif
#ifndef SETS_IF_EMPTY
#define SETS_IF_EMPTY 0
#endif
#ifndef GETS
#define GETS 1
#endif
#ifndef ATTEMPTS        /* of every operation, each with a ballot of its own */
#define ATTEMPTS 2
#endif

#define CLIENTS (APPENDS + SETS_IF_EMPTY + GETS)
#ifdef MOVE
#define SPARE 1         /* the mover's identity change has a ballot too, above the others' first ones */
#define ACCEPTORS 4
#else
#define SPARE 0
#define ACCEPTORS 3
#endif
#ifdef MOVE
#define LAST_STAGE NEW
#else
#define LAST_STAGE OLD
#endif
#define BALLOTS (ATTEMPTS * (CLIENTS + SPARE))

#define BIT(r) (1 << (r))
#define IN(set, r) (((set) >> (r)) & 1)
#ifdef MOVE
#define OWNS(r) ((r) == 0 || (r) == 3)
#define OLD_MAJORITY(a, b, c) (a)
#define NEW_MAJORITY(a, b, d) (d)
#else
#define OWNS(r) ((r) < ACCEPTORS)
#define OLD_MAJORITY(a, b, c) ((a) + (b) + (c) >= 2)
#define NEW_MAJORITY(a, b, d) ((a) + (b) + (d) >= 2)
#endif
#define OF_OLD(set) OLD_MAJORITY(IN(set, 0), IN(set, 1), IN(set, 2))
#define OF_NEW(set) NEW_MAJORITY(IN(set, 0), IN(set, 1), IN(set, 3))

#define OLD 0
#define WRITE_BOTH_READ_OLD 1
#define WRITE_BOTH_READ_NEW 2
#define NEW 3
#define ABSENT 9           /* the fence of a replica that does not hold the bucket */

#define WRITE_NEEDS(s, set) ((s == NEW || OF_OLD(set)) && (s == OLD || OF_NEW(set)))
#define READ_NEEDS(s, set) ((s <= WRITE_BOTH_READ_OLD && OF_OLD(set)) || (s >= WRITE_BOTH_READ_NEW && OF_NEW(set)))

#ifdef PREPARE_ON_READ_NEEDS
#define PREPARE_NEEDS(s, set) READ_NEEDS(s, set)
#else
#ifdef PREPARE_WITHOUT_MAJORITY
#define PREPARE_NEEDS(s, set) (set != 0)
#else
#define PREPARE_NEEDS(s, set) WRITE_NEEDS(s, set)
#endif
#endif

/* The acceptors. Ballot 0: nothing yet. A fence refuses the stages before it. */
byte promised[ACCEPTORS];
byte accepted[ACCEPTORS];
byte value[ACCEPTORS];
byte fence[ACCEPTORS];

/* The accepts that were sent: with which value and stage, and by whom they were accepted. */
bool sent[BALLOTS + 1];
byte proposal[BALLOTS + 1];
byte votes[BALLOTS + 1];
byte stage_of[BALLOTS + 1];

byte stage;             /* the newest that was published */
byte told;              /* the longest list that a client was told */
#ifdef SHOW_THAT_ALL_CAN_SUCCEED
byte answers;
#endif

#define ADMITS(r, s) (fence[r] <= s)

#define HAS(list, id) ((list) % 4 == (id) || ((list) / 4) % 4 == (id) || (list) / 16 == (id))
/* No list gets longer than three. */
#define ONCE(list) (list < 4 || (list % 4 != (list / 4) % 4 && list % 4 != list / 16 && (list / 4) % 4 != list / 16))

/* a is how b began; c is what shrinks. */
inline must_begin_with(b, a, c) {
    c = b;
    do
    :: c > a -> c = c / 4
    :: else -> break
    od;
    assert(c == a);
    c = 0
}

inline answer(list, at_start, c) {
    printf("client %d: told list %d\n", me, list);
    assert(ONCE(list));
    must_begin_with(list, at_start, c);
    if
    :: list >= told -> must_begin_with(list, told, c); told = list
    :: else -> must_begin_with(told, list, c)
    fi;
#ifdef SHOW_THAT_ALL_CAN_SUCCEED
    answers++;
    assert(!(answers == CLIENTS && s == LAST_STAGE));
#endif
    skip
}

#define ACCEPT_ARRIVES(b) \
    :: atomic { b <= BALLOTS && sent[b] && promised[r] <= b && accepted[r] < b && ADMITS(r, stage_of[b]) -> \
           promised[r] = b; \
           accepted[r] = b; \
           value[r] = proposal[b]; \
           votes[b] = votes[b] | BIT(r); \
           printf("acceptor %d: accepts list %d at ballot %d\n", r, value[r], b) \
       }

#define PREPARE_ARRIVES(r) \
    :: atomic { OWNS(r) && !(got & BIT(r)) && promised[r] < ballot && ADMITS(r, s) -> \
           promised[r] = ballot; \
           got = got | BIT(r); \
           if \
           :: accepted[r] > best -> best = accepted[r]; list = value[r] \
           :: else \
           fi; \
           printf("client %d, stage %d: acceptor %d promises ballot %d; has list %d of ballot %d\n", \
                  me, s, r, ballot, value[r], accepted[r]) \
       }

#define GET_ARRIVES(r) \
    :: atomic { OWNS(r) && !(got & BIT(r)) && ADMITS(r, s) -> \
           if \
           :: got == 0 -> best = accepted[r]; list = value[r] \
           :: got != 0 && accepted[r] != best -> differs = true \
           :: else \
           fi; \
           if \
           :: promised[r] > accepted[r] -> higher = true \
           :: else \
           fi; \
           got = got | BIT(r); \
           printf("client %d, stage %d: acceptor %d has list %d of ballot %d, promise %d\n", \
                  me, s, r, value[r], accepted[r], promised[r]) \
       }

#ifdef READ_DESPITE_A_PROMISE
#define FINAL (!differs)
#else
#ifdef READ_DESPITE_A_CHANGE_IN_FLIGHT
#define FINAL true
#else
#define FINAL (!differs && !higher)
#endif
#endif

inline take_a_stage(known) {
    do
    :: known < stage -> known++
    :: break
    od
}

#ifdef RETRY_DOES_NOT_LOOK_FOR_ITS_ID
#define FOUND(list, id) false
#else
#define FOUND(list, id) HAS(list, id)
#endif

/* What an operation makes of the list that was found. A Get, a compare-and-set that fails and a change that finds itself
 * there (accepted somewhere, at an earlier attempt) leave it as it is: the identity, which is accepted all the same. */
inline change() {
    failed = if_empty && list != 0 && !FOUND(list, me);
    if
    :: me <= APPENDS + SETS_IF_EMPTY && !FOUND(list, me) && !failed -> list = list * 4 + me
    :: else
    fi
}

proctype Client(byte me; bool if_empty; bool one_round) {
    byte s, at_start, attempt, ballot, got, best, list, c;
    bool differs, higher, failed;

    atomic { take_a_stage(s); at_start = told }
    if
    :: one_round ->
end_get:
        do
        GET_ARRIVES(0)
        GET_ARRIVES(1)
        GET_ARRIVES(2)
        GET_ARRIVES(3)
        :: atomic { READ_NEEDS(s, got) -> break }
        od;
        atomic {
            if
            :: FINAL -> answer(list, at_start, c); goto done
            :: else
            fi
        }
    :: else
    fi;
    do
    :: attempt == ATTEMPTS -> break         /* UNKNOWN */
    :: else ->
        atomic {
            ballot = attempt * (CLIENTS + SPARE) + me;
            attempt++;
            take_a_stage(s);
            got = 0; best = 0; list = 0
        }
end_prepare:
        do
        PREPARE_ARRIVES(0)
        PREPARE_ARRIVES(1)
        PREPARE_ARRIVES(2)
        PREPARE_ARRIVES(3)
        :: atomic { PREPARE_NEEDS(s, got) ->
               got = 0;
               best = 0;
               change();
#ifdef FAILED_CAS_DOES_NOT_ACCEPT
               if
               :: failed -> answer(list, at_start, c); goto done
               :: else
               fi;
#endif
               proposal[ballot] = list;
               stage_of[ballot] = s;
               sent[ballot] = true;
               printf("client %d, stage %d: asks to accept list %d at ballot %d\n", me, s, list, ballot);
               break
           }
        :: attempt < ATTEMPTS -> break      /* refused, or out of patience */
        od;
        if
        :: sent[ballot] ->
end_accept:
            if
            :: atomic { WRITE_NEEDS(s, votes[ballot]) -> answer(list, at_start, c); goto done }
            :: attempt < ATTEMPTS           /* likewise: it must look for its change before it says anything */
            fi
        :: else
        fi
    od;
done:
    atomic {
        /* Equal states look equal. */
        at_start = 0; ballot = 0; got = 0; best = 0; list = 0; s = 0; attempt = 0;
        failed = false; differs = false; higher = false
    }
}

proctype Acceptor(byte r) {
end:
    do
    ACCEPT_ARRIVES(1)
    ACCEPT_ARRIVES(2)
    ACCEPT_ARRIVES(3)
    ACCEPT_ARRIVES(4)
    ACCEPT_ARRIVES(5)
    ACCEPT_ARRIVES(6)
    ACCEPT_ARRIVES(7)
    ACCEPT_ARRIVES(8)
    od
}

#ifdef AN_ACCEPTOR_FORGETS
proctype PowerCut() {
    atomic {
        promised[0] = 0; accepted[0] = 0; value[0] = 0;
        printf("acceptor 0 forgets all, and goes on\n")
    }
}
#endif

#ifdef MOVE
#include "register_move.pml"
#endif

init {
    byte i;
    atomic {
        do
        :: OWNS(i) -> run Acceptor(i); i++
        :: i < ACCEPTORS && !OWNS(i) -> i++
        :: i == ACCEPTORS -> break
        od;
        i = 1;
        do
        :: i <= APPENDS -> run Client(i, false, false); i++
        :: i > APPENDS && i <= APPENDS + SETS_IF_EMPTY -> run Client(i, true, false); i++
        :: i > APPENDS + SETS_IF_EMPTY && i <= CLIENTS -> run Client(i, false, true); i++
        :: else -> break
        od;
#ifdef AN_ACCEPTOR_FORGETS
        run PowerCut();
#endif
#ifdef MOVE
        fence[3] = ABSENT;
        run Mover();
#endif
        i = 0
    }
}
